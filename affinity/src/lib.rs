//! Hardware topology, placement of workers and interrupts, pinning and memory binding.
//!
//! [`Topology`] is what there is, [`plan::workers`] says who runs where, [`pin_thread`] and
//! [`bind_memory`] make it so. Plans are pure functions: the same machine and wishes give the
//! same plan, so machines that nobody has here are tested from hwloc's descriptions of them.

mod bind;
mod cpu_set;
pub mod limits;
pub mod plan;
pub mod queues;
pub mod steering;
mod topology;

pub use bind::{bind_memory, pin_thread, release_start_up_text};
pub use cpu_set::{CPU_MAX, CpuSet, CpuSetError};
pub use limits::Limits;
pub use plan::{NicPlace, Numa, WorkerPlan, WorkersConfig};
pub use topology::{Core, Topology, TopologyError};
