"""Who may do what on an external server: three users, each with the commands it calls and no more."""

import hashlib
import secrets
from collections.abc import Mapping
from typing import Final

from world.store.records import Durability

HOST_ACL: Final = (
    "~w:* ~idx:* ~store:id -@all +ping +info +config|get +function|list +function|load +multi +exec +fcall "
    "+time +exists +get +set +hdel +hget +hgetall +hmget +hset +xadd +xrange +xtrim +zadd +zrange +zrangebyscore "
    "+zrem +zremrangebyscore +zremrangebyrank +zrevrange +zrevrangebyscore +zscore +rename +unlink +scan"
)
"""What a host needs, as ACL SETUSER takes it. What the functions call is checked against their caller's rights."""

REPLICA_ACL: Final = "+waitaof"
"""What a host needs besides at durability "replica": a command that servers before 7.2 do not know."""

GATEWAY_ACL: Final = "~w:*:in %R~w:*:m -@all +xadd +hmget"
"""What a gateway needs: to post into inboxes, and to read how far they were read."""

HISTORY_ACL: Final = (
    "%R~w:* %R~idx:* %R~store:id -@all +ping +info +config|get +function|list +multi +exec +time +exists +get +hget "
    "+hgetall +hmget +xrange +xrevrange +xlen +zcard +zrange +zrangebyscore +zrevrange +zrevrangebyscore +zscore +scan"
)
"""What looking at worlds, their past and the results of requests needs: nothing that writes."""

USERS: Final[Mapping[str, str]] = {
    "worlds-host": HOST_ACL,
    "worlds-gateway": GATEWAY_ACL,
    "worlds-history": HISTORY_ACL,
}


def new_passwords() -> dict[str, str]:
    """Return a random password for each user."""
    return {user: secrets.token_urlsafe(24) for user in USERS}


def acl_file(passwords: Mapping[str, str], durability: Durability = "disk") -> str:
    """Return what the server's `aclfile` should hold: these users, and nobody without a password.

    It holds digests, not passwords. An administrator of the server adds a user of their own.
    """
    lines = ["user default off"]
    for user, rights in USERS.items():
        digest = hashlib.sha256(passwords[user].encode()).hexdigest()
        if user == "worlds-host" and durability == "replica":
            rights = f"{rights} {REPLICA_ACL}"
        lines.append(f"user {user} on #{digest} {rights}")
    return "".join(f"{line}\n" for line in lines)
