//! What the host says: CPU time, memory, topology, versions; and pinning to CPUs.

pub mod cpu;
pub mod group;
pub mod launch;
pub mod machine;
pub mod memory;
pub mod pin;
