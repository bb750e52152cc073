"""The one exception tree: everything that bad input, a dead server or a broken file can cause.

Programming mistakes are not here; they raise `AssertionError` or what Python raises.
"""


class LivingWorldsError(Exception):
    """Base of every error we raise on purpose. Its message says what is wrong and what to do."""


class ConfigError(LivingWorldsError, ValueError):
    """A configuration holds an unknown or impossible value."""


class EnvironmentUnusable(LivingWorldsError):
    """An environment cannot be hosted: no usable observations or actions, or it is not installed."""


class RunFolderError(LivingWorldsError):
    """A run folder is in use by another run, or was written by another schema."""


class DiskFull(LivingWorldsError):
    """A file could not be written for want of space; what was there before is intact."""


class CheckpointError(LivingWorldsError):
    """A checkpoint is missing, incomplete, corrupt, or of another shape than the model."""


class ReplayError(LivingWorldsError):
    """A replay segment or chunk is malformed, or a limiter setting would deadlock."""


class StoreError(LivingWorldsError):
    """Base of everything the world store can refuse."""


class StoreUnavailable(StoreError):
    """The server did not answer: the outcome of the call is unknown, and repeating it is safe."""


class UnsafeServer(StoreError):
    """The server's settings would lose acknowledged ticks."""


class UnknownWorld(StoreError):
    """No world has this id."""


class WorldExists(StoreError):
    """A world of this id exists already, with other content."""


class LeaseHeld(StoreError):
    """Another owner holds an unexpired lease on the world."""


class Fenced(StoreError):
    """Another owner has taken the world: this one must stop and drop it."""


class Gap(StoreError):
    """A commit builds on another tick than the stored one."""


class Conflict(StoreError):
    """The stored tick has the same number but another digest."""


class ImportRefused(StoreError):
    """A file is not an exported world, or is made to do harm."""


class Pinned(StoreError):
    """A past cannot be cut off or deleted, because forks build on it."""


class NoHistory(StoreError):
    """A world never was at that tick, or its history is not kept or not to be found here."""


class NotRunning(StoreError):
    """The world is paused, quarantined or deleted."""


class StoreFull(StoreError):
    """The server has no memory or disk left; the world pauses, nothing is dropped."""


class WorldTooLarge(StoreError):
    """A world has outgrown what can be stored of one; rewind it to an earlier tick, or delete it. Others go on."""


class InboxFull(StoreError):
    """Too many requests wait for the world's host; nothing was posted."""


class CorruptRecord(StoreError):
    """Stored bytes fail their checksum, their schema, or the digest chain."""


class NewerSchema(CorruptRecord):
    """Stored bytes are of a newer program than this one, and as sound as they were."""
