//! The claim log: RFC 6962 tree in LMDB, checkpoints, recovery, fsck.
