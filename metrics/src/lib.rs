//! Counter pages in shared memory, the catalogue of metrics and their text rendering.
