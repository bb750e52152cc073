"""Where worlds are kept: the records, the protocol, and two stores that pass one suite."""
