//! The HTTP/1.1 server protocol of emberd, sans-IO: no clock, no socket, no unsafe.
