//! Queue plans for NICs that nobody here has, on machines that nobody here has.

use ember_affinity::queues::{self, NicShape, QueuePlan, Steering};
use ember_affinity::{CpuSet, NicPlace, Numa, Topology, WorkersConfig, plan};
use proptest::prelude::*;

const TWO_NODES: &str = "package:2 numa:1 l3:2 core:4 pu:2";

fn nic(node: Option<u32>, queues: u32, max: Option<u32>) -> NicShape {
    NicShape {
        place: NicPlace { node, local_cpus: None },
        rx_queues: queues,
        tx_queues: queues,
        rx_queues_max: max,
        rss_table: true,
        interrupts: true,
        stands_in_for: None,
    }
}

fn planned(machine: &str, numa: Numa, nics: &[NicShape]) -> Vec<QueuePlan> {
    let topology = Topology::from_synthetic(machine).expect(machine);
    let places: Vec<NicPlace> = nics.iter().map(|nic| nic.place.clone()).collect();
    let config = WorkersConfig { numa, ..WorkersConfig::default() };
    let workers = plan::workers(&topology, &config, &places).expect("workers");
    queues::plan(&topology, &workers, nics)
}

/// "irq/rps" of each receive queue.
fn receive(plan: &QueuePlan) -> Vec<String> {
    let irq = |cpu: Option<u32>| cpu.map_or("-".to_string(), |cpu| cpu.to_string());
    plan.receive.iter().map(|seat| format!("{}/{}", irq(seat.irq_cpu), seat.rps)).collect()
}

fn transmit(plan: &QueuePlan) -> Vec<String> {
    plan.transmit.iter().map(CpuSet::to_string).collect()
}

#[test]
fn a_queue_a_worker_needs_no_software_spreading() {
    let plans = planned(TWO_NODES, Numa::NicLocal, &[nic(Some(1), 63, Some(63))]);
    let plan = &plans[0];
    assert_eq!(plan.channels, Some(8));
    assert_eq!(receive(plan), ["16/", "18/", "20/", "22/", "24/", "26/", "28/", "30/"]);
    assert_eq!(transmit(plan), ["16", "18", "20", "22", "24", "26", "28", "30"]);
    assert!(!plan.software_spread);
    assert_eq!((plan.rss_queues, plan.steering), (None, Steering::IncomingCpu));
}

#[test]
fn a_driver_that_will_not_resize_gets_its_hash_table_cut() {
    let plans = planned("core:4 pu:1", Numa::NicLocal, &[nic(None, 6, None)]);
    assert_eq!((plans[0].channels, plans[0].rss_queues), (None, Some(4)));
    assert_eq!(receive(&plans[0]), ["0/", "1/", "2/", "3/", "0/", "1/"]);
    let deaf = NicShape { rss_table: false, ..nic(None, 6, None) };
    assert_eq!(planned("core:4 pu:1", Numa::NicLocal, &[deaf])[0].rss_queues, None);
}

#[test]
fn fewer_queues_than_workers_get_groups_that_share_a_cache() {
    let two = planned("l3:2 core:4 pu:2", Numa::NicLocal, &[nic(None, 2, Some(2))]);
    assert_eq!(two[0].channels, None);
    assert_eq!(receive(&two[0]), ["0/0,2,4,6", "8/8,10,12,14"]);
    assert_eq!(transmit(&two[0]), ["0,2,4,6", "8,10,12,14"]);
    assert!(two[0].software_spread);
    let three = planned("l3:2 core:4 pu:2", Numa::NicLocal, &[nic(None, 3, None)]);
    assert_eq!(receive(&three[0]), ["0/0,2", "4/4,6", "8/8,10,12,14"]);
    let one = planned("l3:2 core:4 pu:2", Numa::NicLocal, &[nic(None, 1, Some(1))]);
    assert_eq!(receive(&one[0]), ["0/0,2,4,6,8,10,12,14"]);
    // A driver that can do more is asked for all it has.
    let grown = planned("core:8 pu:1", Numa::NicLocal, &[nic(None, 1, Some(4))]);
    assert_eq!(grown[0].channels, Some(4));
    assert_eq!(receive(&grown[0]), ["0/0-1", "2/2-3", "4/4-5", "6/6-7"]);
}

#[test]
fn spilled_workers_are_reached_by_software_and_interrupts_stay_local() {
    let plans = planned(TWO_NODES, Numa::All, &[nic(Some(0), 8, Some(63))]);
    assert_eq!(plans[0].channels, None);
    let seats = receive(&plans[0]);
    assert_eq!((seats[0].as_str(), seats[7].as_str()), ("0/0,16", "14/14,30"));
    assert!(plans[0].software_spread);
}

#[test]
fn two_nics_share_the_workers_out() {
    let apart = planned(TWO_NODES, Numa::NicLocal, &[nic(Some(0), 8, None), nic(Some(1), 8, None)]);
    assert_eq!((receive(&apart[0])[0].as_str(), receive(&apart[1])[0].as_str()), ("0/", "16/"));
    let together = planned(TWO_NODES, Numa::NicLocal, &vec![nic(Some(0), 8, Some(8)); 2]);
    assert_eq!(receive(&together[0]), ["0/", "2/", "4/", "6/"]);
    assert_eq!(receive(&together[1]), ["8/", "10/", "12/", "14/"]);
    // Unless one of them only stands in for the other.
    let backup = NicShape { stands_in_for: Some(0), ..nic(Some(0), 8, Some(8)) };
    let pair = planned(TWO_NODES, Numa::NicLocal, &[nic(Some(0), 8, Some(8)), backup]);
    assert_eq!(receive(&pair[0]), ["0/", "2/", "4/", "6/", "8/", "10/", "12/", "14/"]);
    assert_eq!(receive(&pair[0]), receive(&pair[1]));
    // One worker for two NICs serves both.
    let lone = planned("pu:1", Numa::NicLocal, &[nic(None, 2, Some(2)), nic(None, 2, Some(2))]);
    assert_eq!(receive(&lone[0]), receive(&lone[1]));
}

#[test]
fn a_device_without_interrupts_is_steered_by_hash() {
    let veth = NicShape { interrupts: false, ..nic(None, 4, Some(4)) };
    let plans = planned("core:2 pu:1", Numa::NicLocal, &[veth]);
    assert_eq!((plans[0].channels, plans[0].steering), (Some(2), Steering::Hash));
    assert_eq!(receive(&plans[0]), ["-/", "-/"]);
}

proptest! {
    /// Whatever the machine and the NICs: every mask is of workers' CPUs, every interrupt has
    /// one, no transmit mask is empty, and every worker is reached by some queue.
    #[test]
    fn masks_are_allowed_and_nobody_is_left_out(
        packages in 1u32..3, caches in 1u32..4, cores in 1u32..6, threads in 1u32..3,
        queues in prop::collection::vec((1u32..20, prop::option::of(1u32..40)), 1..3),
        nodes in prop::collection::vec(prop::option::of(0u32..2), 2),
        all in any::<bool>(),
    ) {
        let machine = format!("package:{packages} numa:1 l3:{caches} core:{cores} pu:{threads}");
        let topology = Topology::from_synthetic(&machine).expect("machine");
        let nics: Vec<NicShape> = queues.iter().zip(nodes)
            .map(|(&(queues, max), node)| nic(node, queues, max.map(|max| max.max(queues))))
            .collect();
        let places: Vec<NicPlace> = nics.iter().map(|nic| nic.place.clone()).collect();
        let numa = if all { Numa::All } else { Numa::NicLocal };
        let config = WorkersConfig { numa, ..WorkersConfig::default() };
        let workers = plan::workers(&topology, &config, &places).expect("workers");
        let ours = plan::cpus(&workers);
        let plans = queues::plan(&topology, &workers, &nics);
        prop_assert_eq!(plans.len(), nics.len());
        let mut reached = CpuSet::new();
        for (plan, nic) in plans.iter().zip(&nics) {
            let queues = plan.channels.unwrap_or(nic.rx_queues);
            prop_assert_eq!(plan.receive.len() as u32, queues);
            prop_assert!(plan.channels.is_none_or(|count| count <= nic.rx_queues_max.unwrap_or(0)));
            for seat in &plan.receive {
                let irq = seat.irq_cpu.expect("an interrupt");
                prop_assert!(ours.contains(irq));
                prop_assert!(seat.rps.is_subset(&ours));
                prop_assert!(seat.rps.len() != 1, "RPS to one CPU is a detour");
                reached.insert(irq);
                reached.extend(seat.rps.iter());
            }
            for mask in &plan.transmit {
                prop_assert!(!mask.is_empty() && mask.is_subset(&ours));
            }
        }
        prop_assert_eq!(reached, ours);
    }
}
