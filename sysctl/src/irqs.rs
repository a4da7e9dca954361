//! Which interrupt belongs to which queue of a NIC, by three sources in turn, since each alone
//! fails somewhere: netdev-genl names it (virtio does not), the device's MSI interrupts carry
//! action names, and drivers keep to patterns in those names.

use serde::{Deserialize, Serialize};

use crate::host::{Host, basename};
use crate::target::QueueId;

/// What a queue's interrupt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A receive queue, and the transmit queue with it where the driver pairs them.
    Rx,
    /// A transmit queue alone.
    Tx,
}

/// Where the assignment was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The kernel's netdev family said so.
    Netdev,
    /// One of the device's MSI interrupts, by its action's name.
    Msi,
    /// By the action's name alone.
    Name,
}

/// The interrupt of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueIrq {
    /// Number of the queue, within its role.
    pub queue: u32,
    /// What it is for.
    pub role: Role,
    /// The interrupt's number, good until the driver asks for new ones.
    pub irq: u32,
    /// The action's name, which survives that.
    pub action: Option<String>,
    /// Where it was found.
    pub source: Source,
}

impl QueueIrq {
    /// The queue that it belongs to.
    pub fn id(&self) -> QueueId {
        QueueId { role: self.role, queue: self.queue }
    }
}

/// What the search needs to know of a NIC.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a> {
    /// The interface's name.
    pub name: &'a str,
    /// Its number.
    pub ifindex: u32,
    /// The directory of its bus device in /sys, where it has one.
    pub directory: Option<&'a str>,
}

/// The interrupts of a device's queues, sorted by role and queue.
pub fn queue_irqs(host: &dyn Host, device: Device<'_>) -> Vec<QueueIrq> {
    let mut found = by_netdev(host, device);
    if found.is_empty() {
        found = by_msi(host, device);
    }
    if found.is_empty() {
        found = by_name(host, device);
    }
    found.sort_by_key(|irq| (irq.role, irq.queue));
    found
}

/// The names of an interrupt's actions.
pub fn actions(host: &dyn Host, irq: u32) -> Vec<String> {
    let text = host.read(&format!("/sys/kernel/irq/{irq}/actions")).unwrap_or_default();
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect()
}

/// The interrupt that carries an action, whatever its number is now.
pub fn irq_of_action(host: &dyn Host, action: &str) -> Option<u32> {
    all_irqs(host).into_iter().find(|&irq| actions(host, irq).iter().any(|name| name == action))
}

fn all_irqs(host: &dyn Host) -> Vec<u32> {
    let names = host.list("/sys/kernel/irq").unwrap_or_default();
    let mut irqs: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    irqs.sort_unstable();
    irqs
}

fn by_netdev(host: &dyn Host, device: Device<'_>) -> Vec<QueueIrq> {
    let mut found = Vec::new();
    for napi in host.napis(device.ifindex).unwrap_or_default() {
        let Some(irq) = napi.irq else { continue };
        let action = actions(host, irq).into_iter().next();
        let entry = |role, queue: &u32| QueueIrq {
            queue: *queue,
            role,
            irq,
            action: action.clone(),
            source: Source::Netdev,
        };
        match napi.rx_queues.as_slice() {
            [] => found.extend(napi.tx_queues.iter().map(|queue| entry(Role::Tx, queue))),
            queues => found.extend(queues.iter().map(|queue| entry(Role::Rx, queue))),
        }
    }
    found
}

fn by_msi(host: &dyn Host, device: Device<'_>) -> Vec<QueueIrq> {
    let Some(directory) = device.directory else { return Vec::new() };
    let own = host.list(&format!("{directory}/msi_irqs"));
    // The interrupts of a virtio device are those of the PCI device above it.
    let parent = || host.list(&format!("{}/msi_irqs", parent(directory)));
    let names = own.or_else(|_| parent()).unwrap_or_default();
    let mut irqs: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    irqs.sort_unstable();
    ranked(host, &irqs, Source::Msi, queue_of)
}

fn by_name(host: &dyn Host, device: Device<'_>) -> Vec<QueueIrq> {
    let names_device = |action: &str| {
        let bus = device.directory.map(basename);
        let parent = device.directory.map(parent).map(basename);
        let ours = [Some(device.name), bus, parent];
        let mut tokens = action.split(['-', '@', '.']).chain(action.rsplit('@').take(1));
        // `pci:0000:3b:00.0` behind the @ names the device by its address.
        tokens.any(|token| ours.contains(&Some(token)))
            || ours.iter().flatten().any(|name| action.ends_with(&format!("pci:{name}")))
    };
    ranked(host, &all_irqs(host), Source::Name, |action| {
        names_device(action).then(|| queue_of(action)).flatten()
    })
}

/// Numbers the matching interrupts within each role in the order of the numbers in their names:
/// drivers begin at 0 or at 1, and the queues always begin at 0.
fn ranked(
    host: &dyn Host,
    irqs: &[u32],
    source: Source,
    matches: impl Fn(&str) -> Option<(Role, u32)>,
) -> Vec<QueueIrq> {
    let mut found: Vec<(Role, u32, u32, String)> = Vec::new();
    for &irq in irqs {
        let matching = actions(host, irq)
            .into_iter()
            .find_map(|action| matches(&action).map(|(role, number)| (role, number, irq, action)));
        found.extend(matching);
    }
    found.sort();
    let mut result: Vec<QueueIrq> = Vec::new();
    for (role, _, irq, action) in found {
        let queue = result.iter().filter(|entry| entry.role == role).count() as u32;
        result.push(QueueIrq { queue, role, irq, action: Some(action), source });
    }
    result
}

/// The role and number of the queue that a driver's action name tells of.
fn queue_of(action: &str) -> Option<(Role, u32)> {
    const OTHER: [&str; 8] =
        ["config", "async", "fdir", "ctrl", "misc", "mgmnt", "event", "pages_eq"];
    let lower = action.to_ascii_lowercase();
    if OTHER.iter().any(|other| lower.contains(other)) {
        return None;
    }
    // mlx5_comp3@pci:… and mlx4-3@…; mana_q3@pci:…
    for prefix in ["mlx5_comp", "mlx4-", "mana_q"] {
        if let Some(rest) = lower.strip_prefix(prefix) {
            let number = rest.split('@').next()?;
            return rest
                .contains('@')
                .then_some(())
                .and_then(|()| number.parse().ok())
                .map(|number| (Role::Rx, number));
        }
    }
    // virtio3-input.0
    for (infix, role) in [("-input.", Role::Rx), ("-output.", Role::Tx)] {
        if let Some((device, number)) = lower.split_once(infix) {
            let digits = device.strip_prefix("virtio")?;
            digits.parse::<u32>().ok()?;
            return number.parse().ok().map(|number| (role, number));
        }
    }
    // eth0-TxRx-3, ice-eth0-TxRx-3, eth0-Tx-Rx-3 (ENA), eth0-fp-3, eth0-rx-3, eth0-tx-3
    let (name, number) = lower.rsplit_once('-')?;
    let number = number.parse().ok()?;
    let shared = ["-txrx", "-rxtx", "-tx-rx", "-fp", "-rx"];
    match name {
        _ if shared.iter().any(|suffix| name.ends_with(suffix)) => Some((Role::Rx, number)),
        _ if name.ends_with("-tx") => Some((Role::Tx, number)),
        _ => None,
    }
}

fn parent(directory: &str) -> &str {
    directory.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_names_tell_queue_and_role() {
        for (action, queue) in [
            ("mlx5_comp0@pci:0000:3b:00.0", Some((Role::Rx, 0))),
            ("mlx5_comp63@pci:0000:3b:00.0", Some((Role::Rx, 63))),
            ("mlx4-12@0000:03:00.0", Some((Role::Rx, 12))),
            ("mlx4-async@pci:0000:03:00.0", None),
            ("mlx5_async0@pci:0000:3b:00.0", None),
            ("mlx5_comp0", None),
            ("mana_q3@pci:7870:00:00.0", Some((Role::Rx, 3))),
            ("virtio2-input.1", Some((Role::Rx, 1))),
            ("virtio2-output.1", Some((Role::Tx, 1))),
            ("virtio2-config", None),
            ("virtio1-req.0", None),
            ("ice-ens1f0-TxRx-17", Some((Role::Rx, 17))),
            ("i40e-eth0-TxRx-2", Some((Role::Rx, 2))),
            ("i40e-0000:18:00.0:fdir-TxRx-0", None),
            ("eth0-Tx-Rx-1", Some((Role::Rx, 1))),
            ("eth2-fp-4", Some((Role::Rx, 4))),
            ("ens5-rx-0", Some((Role::Rx, 0))),
            ("ens5-tx-0", Some((Role::Tx, 0))),
            ("nvme0q3", None),
            ("eth0", None),
        ] {
            assert_eq!(queue_of(action), queue, "{action}");
        }
    }
}
