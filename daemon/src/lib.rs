//! The best HTTP daemon for bare-metal Linux hosts.
