//! Load generator, peers and reports of emberd.
