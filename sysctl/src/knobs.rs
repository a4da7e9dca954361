//! The catalogue: which knobs there are, what each is set to, and the truth about it.

use serde::Serialize;

/// Groups of knobs, in the order in which they are applied: what makes queues anew first, what
/// depends on the queues after it, and all before the workers listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// How many queues.
    Channels,
    /// Descriptor ring sizes.
    Rings,
    /// Interrupt coalescing.
    Coalesce,
    /// Offloads.
    Features,
    /// The ban list of irqbalance.
    Irqbalance,
    /// Interrupt affinity.
    Irq,
    /// The hash indirection table.
    Rss,
    /// Spreading by software.
    Rps,
    /// Its flow tables.
    Rfs,
    /// Transmit queue selection.
    Xps,
    /// Kernel parameters.
    Sysctl,
    /// Per-NAPI busy polling.
    Busypoll,
    /// CPU frequency governor.
    Governor,
}

impl Group {
    /// All of them, in order.
    pub const ALL: [Group; 13] = [
        Group::Channels,
        Group::Rings,
        Group::Coalesce,
        Group::Features,
        Group::Irqbalance,
        Group::Irq,
        Group::Rss,
        Group::Rps,
        Group::Rfs,
        Group::Xps,
        Group::Sysctl,
        Group::Busypoll,
        Group::Governor,
    ];

    /// Its name in `--only` and `--skip`.
    pub fn name(self) -> &'static str {
        match self {
            Group::Channels => "channels",
            Group::Rings => "rings",
            Group::Coalesce => "coalesce",
            Group::Features => "features",
            Group::Irqbalance => "irqbalance",
            Group::Irq => "irq",
            Group::Rss => "rss",
            Group::Rps => "rps",
            Group::Rfs => "rfs",
            Group::Xps => "xps",
            Group::Sysctl => "sysctl",
            Group::Busypoll => "busypoll",
            Group::Governor => "governor",
        }
    }

    /// Whether a change makes the device's queues and interrupts anew.
    pub fn remakes_queues(self) -> bool {
        matches!(self, Group::Channels | Group::Rings)
    }
}

/// What is said of a knob besides its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Truth {
    /// Why it is changed.
    pub why: &'static str,
    /// What to expect of it.
    pub effect: &'static str,
    /// What may go wrong.
    pub risk: &'static str,
    /// Whether it touches the way of a request to this server at all.
    pub on_path: bool,
}

/// How a sysctl's wanted value and the present one make the new one. What an operator has set
/// further is never taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The larger.
    AtLeast(i64),
    /// The smaller.
    AtMost(i64),
    /// This one: its values are names for modes and have no order.
    Exactly(i64),
}

impl Rule {
    /// The value to set, given the present one.
    pub fn value(self, present: &str) -> String {
        let number: Option<i64> = present.parse().ok();
        let value = match self {
            Rule::AtLeast(value) => number.map_or(value, |now| now.max(value)),
            Rule::AtMost(value) => number.map_or(value, |now| now.min(value)),
            Rule::Exactly(value) => value,
        };
        value.to_string()
    }
}

/// A sysctl of the plan.
#[derive(Clone, Copy, Debug)]
pub struct Sysctl {
    /// Dotted name.
    pub name: &'static str,
    /// What it is set to.
    pub rule: Rule,
    /// What is said of it.
    pub truth: Truth,
}

/// The sysctls of every plan.
pub const SYSCTLS: [Sysctl; 5] = [
    Sysctl {
        name: "net.core.somaxconn",
        rule: Rule::AtLeast(65_535),
        truth: Truth {
            why: "caps the backlog of every listening socket",
            effect: "bursts of connections wait instead of being dropped; read at listen(), so \
                     it is set before the workers listen",
            risk: "a longer queue hides an overloaded server; per network namespace",
            on_path: true,
        },
    },
    Sysctl {
        name: "net.ipv4.tcp_max_syn_backlog",
        rule: Rule::AtLeast(65_535),
        truth: Truth {
            why: "caps half-open connections",
            effect: "none while SYN cookies are on, as they are by default",
            risk: "kernel memory for half-open connections; per network namespace",
            on_path: true,
        },
    },
    Sysctl {
        name: "net.ipv4.tcp_tw_reuse",
        rule: Rule::Exactly(1),
        truth: Truth {
            why: "lets outgoing connections reuse ports in TIME_WAIT",
            effect: "none on accepting connections; more connections a second to upstreams for \
                     the proxy",
            risk: "none where peers send TCP timestamps",
            on_path: false,
        },
    },
    Sysctl {
        name: "net.ipv4.tcp_fin_timeout",
        rule: Rule::AtMost(15),
        truth: Truth {
            why: "ends orphaned FIN_WAIT_2 sockets earlier",
            effect: "less memory held for clients that never finish; does not touch TIME_WAIT",
            risk: "a client slower than this to close gets a reset",
            on_path: false,
        },
    },
    Sysctl {
        name: BACKLOG_SYSCTL,
        rule: Rule::AtLeast(300_000),
        truth: Truth {
            why: "caps each CPU's queue of packets handed over by software",
            effect: "used by RPS and loopback only: no effect where RSS has a queue a worker",
            risk: "host-wide; so large a value also turns the per-flow limit off",
            on_path: false,
        },
    },
];

/// The queues that RPS hands packets over by: on a request's way where packets are spread so.
pub const BACKLOG_SYSCTL: &str = "net.core.netdev_max_backlog";

/// The offloads of every plan.
pub const FEATURES: [&str; 4] =
    ["rx-gro", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation"];

/// How large the flow table is where packets are spread by software.
pub const RPS_FLOW_ENTRIES: u32 = 32_768;
/// The sysctl with the size of the whole flow table.
pub const RPS_FLOWS_SYSCTL: &str = "net.core.rps_sock_flow_entries";

/// What is said of a sysctl that the operator named.
pub const ASKED_FOR: Truth = Truth {
    why: "asked for in [tune]",
    effect: "as its name says",
    risk: "not looked into: the plan does not know this knob",
    on_path: false,
};

/// What is said of spreading by software that is turned off.
pub const NOT_SPREAD: Truth = Truth {
    why: "this queue has a worker of its own: spreading by software is a detour",
    effect: "packets stay on the CPU that their interrupt came to",
    risk: "none known",
    on_path: true,
};

/// What is said of each group's knobs.
pub fn truth(group: Group) -> Truth {
    let (why, effect, risk) = match group {
        Group::Channels => (
            "a queue for each worker thread, and none besides",
            "each worker's packets interrupt its own CPU",
            "the link goes down for a moment on some drivers, and rules for queues are lost",
        ),
        Group::Rings => (
            "asked for in [tune]",
            "fewer drops in bursts, at more cache misses",
            "the link goes down for a moment on some drivers",
        ),
        Group::Coalesce => (
            "asked for in [tune]",
            "fewer interrupts for more delay, or the other way round",
            "too much delay shows in every reply",
        ),
        Group::Features => (
            "packets go through the stack in large pieces",
            "less CPU time a byte; nothing where replies fit one packet",
            "none known on drivers of today",
        ),
        Group::Irqbalance => (
            "irqbalance would move the interrupts placed here",
            "it leaves these interrupts alone for as long as it runs",
            "gone when irqbalance is restarted: then status shows drift",
        ),
        Group::Irq => (
            "a queue's interrupt on the CPU of its worker",
            "packets are handled where the worker's caches are warm",
            "an interrupt moves when it next fires; drivers may take it back on a reset",
        ),
        Group::Rss => (
            "the driver has more queues than there are workers, and will not resize",
            "the hash spreads over the workers' queues only",
            "the driver's own table is replaced until revert",
        ),
        Group::Rps => (
            "packets of a queue go to all workers of its group",
            "all workers get connections though there are fewer queues",
            "an interrupt between CPUs for each batch of packets",
        ),
        Group::Rfs => (
            "packets go to the CPU on which their connection is served",
            "fewer cache misses where RPS spreads",
            "two memory accesses a packet",
        ),
        Group::Xps => (
            "a worker sends by the queue of its own CPU",
            "no lock shared between CPUs on the way out",
            "none known",
        ),
        Group::Sysctl => (ASKED_FOR.why, ASKED_FOR.effect, ASKED_FOR.risk),
        Group::Busypoll => (
            "asked for in [tune]",
            "interrupts stay off while the workers poll",
            "delays of up to the timeout when the workers do not poll",
        ),
        Group::Governor => {
            ("asked for in [tune]", "no delay by cores that clock up", "more power and heat")
        }
    };
    Truth { why, effect, risk, on_path: true }
}
