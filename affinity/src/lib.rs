//! Hardware topology, placement of workers and interrupts, pinning and memory binding.
