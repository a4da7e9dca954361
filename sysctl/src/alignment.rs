//! How the queues of a NIC fit the workers as things are, whoever has set them.

use std::fmt;

use ember_affinity::CpuSet;
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::irqs::Role;
use crate::nic::Nic;

/// How many of a NIC's receive queues interrupt a CPU that a worker's thread has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alignment {
    /// The NIC.
    pub nic: String,
    /// Its receive queues with an interrupt of their own.
    pub queues: u32,
    /// Those of them that are bound to one worker's CPU, which no other queue takes while there
    /// are others.
    pub aligned: u32,
}

/// Looks at each NIC.
pub fn look(host: &dyn Host, nics: &[Nic], workers: &CpuSet) -> Vec<Alignment> {
    nics.iter().map(|nic| of(host, nic, workers)).collect()
}

fn of(host: &dyn Host, nic: &Nic, workers: &CpuSet) -> Alignment {
    let receive: Vec<_> = nic.irqs.iter().filter(|irq| irq.role == Role::Rx).collect();
    let bound_to = |irq: u32| {
        let mask = host.read(&format!("/proc/irq/{irq}/smp_affinity")).ok()?;
        let cpus = CpuSet::from_mask(&mask).ok()?;
        cpus.first().filter(|cpu| cpus.len() == 1 && workers.contains(*cpu))
    };
    let mut taken = CpuSet::new();
    let mut aligned = 0;
    for cpu in receive.iter().filter_map(|irq| bound_to(irq.irq)) {
        // With more queues than workers they come round again.
        if taken.len() == workers.len() {
            taken = CpuSet::new();
        }
        if !taken.contains(cpu) {
            taken.insert(cpu);
            aligned += 1;
        }
    }
    Alignment { nic: nic.id.name.clone(), queues: receive.len() as u32, aligned }
}

impl fmt::Display for Alignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.queues {
            0 => write!(f, "{}: no interrupts of its own to align", self.nic),
            queues => write!(f, "{}: NIC queues aligned {}/{queues}", self.nic, self.aligned),
        }
    }
}
