//! I/O drivers behind one completion-shaped trait: io_uring, epoll and a seeded simulation.
