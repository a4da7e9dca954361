//! The tuning plan of emberd: kernel and NIC knobs, journalled, verified and taken back.
