//! The queueing disciplines of a device, from the kernel's tc messages: which one each transmit
//! queue has, and what stands before receiving.

use std::collections::BTreeMap;
use std::io;

use ember_affinity::CpuSet;
use netlink_bindings::tc::{Request, Tcmsg};
use netlink_socket2::NetlinkSocket;
use serde::{Deserialize, Serialize};

/// Parents that are no class: TC_H_ROOT and TC_H_INGRESS of linux/pkt_sched.h.
const ROOT: u32 = u32::MAX;
const INGRESS: u32 = 0xffff_fff1;

/// The queueing disciplines of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qdiscs {
    /// The one that all packets enter by; none for a device that is down and never had one.
    pub root: Option<String>,
    /// Where the root has a class for each transmit queue (mq, mqprio): that of each queue.
    pub queues: BTreeMap<u32, String>,
    /// What received packets pass: `ingress` or `clsact`.
    pub ingress: Option<String>,
}

/// Reads those of a device.
///
/// # Errors
/// Where the kernel has no traffic control.
pub fn of_device(ifindex: u32) -> io::Result<Qdiscs> {
    let mut socket = NetlinkSocket::new();
    let request = Request::new().op_getqdisc_dump(&Tcmsg::default());
    let mut replies = socket.request(&request)?;
    let mut entries = Vec::new();
    while let Some(reply) = replies.recv() {
        let (header, attributes) = reply.map_err(io::Error::from)?;
        // The kernel tells those of all devices, whatever is asked for.
        if header.ifindex.cast_unsigned() != ifindex {
            continue;
        }
        if let Ok(kind) = attributes.get_kind() {
            let kind = kind.to_string_lossy().into_owned();
            entries.push(Entry { parent: header.parent, handle: header.handle, kind });
        }
    }
    Ok(assemble(&entries))
}

/// A queueing discipline as the kernel tells of it.
struct Entry {
    parent: u32,
    handle: u32,
    kind: String,
}

fn assemble(entries: &[Entry]) -> Qdiscs {
    let of_parent = |parent| entries.iter().find(|entry| entry.parent == parent);
    let root = of_parent(ROOT);
    let per_queue = root.filter(|root| matches!(root.kind.as_str(), "mq" | "mqprio"));
    let queues = per_queue.map_or_else(BTreeMap::new, |root| {
        // The class of queue q is q+1 below the root's handle.
        let queue = |entry: &Entry| {
            let class = (entry.parent & 0xffff).checked_sub(1)?;
            let below = entry.parent >> 16 == root.handle >> 16;
            below.then(|| (class, entry.kind.clone()))
        };
        let others = entries.iter().filter(|entry| !matches!(entry.parent, ROOT | INGRESS));
        others.filter_map(queue).collect()
    });
    Qdiscs {
        root: root.map(|root| root.kind.clone()),
        queues,
        ingress: of_parent(INGRESS).map(|entry| entry.kind.clone()),
    }
}

impl Qdiscs {
    /// What `queues` transmit queues send by, and what that means; none for a device without.
    pub fn words(&self, nic: &str, queues: usize) -> Option<(String, &'static str)> {
        let root = self.root.as_deref()?;
        if root == "noqueue" {
            let note = "a virtual device: packets are handed on at once, and none is held back";
            return Some((format!("{nic} sends without a queueing discipline (noqueue)"), note));
        }
        let mut kinds: BTreeMap<&str, CpuSet> = BTreeMap::new();
        // Left over from more channels: the kernel keeps one for each queue that there could be.
        for (queue, kind) in self.queues.range(..u32::try_from(queues).unwrap_or(u32::MAX)) {
            kinds.entry(kind).or_default().insert(*queue);
        }
        if kinds.is_empty() {
            let what = format!("{nic} sends by {root}, one for its {queues} transmit queues");
            return Some(match queues {
                0 | 1 => (
                    format!("{nic} sends by {root} on its one transmit queue"),
                    "each packet sent goes through it: its lock is shared by all workers",
                ),
                _ => (
                    what,
                    "all workers share its lock, and XPS brings nothing: mq has one a queue (`tc \
                     qdisc replace dev NIC root mq`)",
                ),
            });
        }
        let told: Vec<String> =
            kinds.iter().map(|(kind, on)| format!("{kind} on queues {on}")).collect();
        Some((
            format!("{nic} sends by {root}: {}", told.join(", ")),
            "one a transmit queue: each worker takes the lock of its own queue only",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(parent: u32, handle: u32, kind: &str) -> Entry {
        Entry { parent, handle, kind: kind.to_string() }
    }

    #[test]
    fn queues_are_the_classes_of_mq_and_of_nothing_else() {
        // Those made by default have the handle 0, and so have their classes' parents.
        let by_default = [entry(2, 0, "fq_codel"), entry(1, 0, "fq"), entry(ROOT, 0, "mq")];
        let found = assemble(&by_default);
        assert_eq!(found.root.as_deref(), Some("mq"));
        assert_eq!(found.queues, [(0, "fq".to_string()), (1, "fq_codel".to_string())].into());
        let made = [
            entry(ROOT, 0x8001_0000, "mq"),
            entry(0x8001_0003, 0x8002_0000, "htb"),
            entry(0x8002_0010, 0, "pfifo"),
            entry(INGRESS, 0xffff_0000, "clsact"),
        ];
        let found = assemble(&made);
        assert_eq!(found.queues, [(2, "htb".to_string())].into());
        assert_eq!(found.ingress.as_deref(), Some("clsact"));
        let shared = assemble(&[entry(ROOT, 0x1_0000, "htb"), entry(0x1_0001, 0, "fq")]);
        assert_eq!((shared.root.as_deref(), shared.queues.len()), (Some("htb"), 0));
    }

    #[test]
    fn what_a_device_sends_by_is_said_in_words() {
        let root = |kind: &str| Qdiscs { root: Some(kind.to_string()), ..Qdiscs::default() };
        let words = |qdiscs: &Qdiscs, queues| qdiscs.words("eth0", queues).expect("words").0;
        assert_eq!(Qdiscs::default().words("eth0", 1), None);
        assert!(words(&root("noqueue"), 4).contains("noqueue"));
        assert_eq!(words(&root("htb"), 4), "eth0 sends by htb, one for its 4 transmit queues");
        assert_eq!(words(&root("fq"), 1), "eth0 sends by fq on its one transmit queue");
        let kinds = ["fq", "fq", "fq_codel", "pfifo_fast"].map(str::to_string);
        let mixed = Qdiscs { queues: (0..).zip(kinds).collect(), ..root("mq") };
        let told = words(&mixed, 3);
        assert_eq!(told, "eth0 sends by mq: fq on queues 0-1, fq_codel on queues 2");
    }

    #[test]
    fn loopback_has_no_queues_of_its_own() {
        match of_device(1) {
            Ok(found) => assert_eq!(found.queues, BTreeMap::new()),
            Err(error) => println!("skipped: no traffic control here: {error}"),
        }
    }
}
