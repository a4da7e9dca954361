//! HTTP services in Rust on the rings of emberd.
