//! What of the config concerns the supervisor, and what it makes of it on this machine.

use std::io::{self, IsTerminal as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use ember_affinity::plan::{self, NicPlace};
use ember_affinity::queues::Steering;
use ember_affinity::{Topology, WorkerPlan, steering};
use ember_metrics::Names;
use ember_sysctl::alignment::Alignment;
use serde::{Deserialize, Serialize};

use super::confine::{self, Confinement};
use super::sockets::{Slot, Wanted};
use super::{limits, spawn};
use crate::config::{self, Config, Sources};
use crate::{boot, log, tune, worker};
use tracing::warn;

/// How long a worker may take from its start to accepting.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a config comes from, each time that it is read.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    origin: Origin,
    /// Whether standard input, if that is the source, has been read.
    read: bool,
}

#[derive(Clone, Debug)]
enum Origin {
    /// What the command line and the environment name.
    Known(Sources),
    /// What the command line will be found to name when it is needed; and what that is called.
    Later(fn() -> Sources, String),
}

/// All that a generation is started from.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) workers: Vec<WorkerPlan>,
    /// What the placement went by.
    pub(crate) grounds: Grounds,
    /// Whether threads are pinned to the CPUs of the plan.
    pub(crate) pinned: bool,
    /// Whether connections are steered to the CPU that their packets arrive on.
    steered: bool,
    pub(crate) in_process: bool,
    pub(crate) drain_timeout: Duration,
    pub(crate) unready_for: Duration,
    pub(crate) start_timeout: Duration,
    /// How long a worker's threads may take to show that they run; none: as long as they like.
    pub(crate) stuck_after: Option<Duration>,
    /// Memory with [`Shared`], for the workers and for a successor.
    pub(crate) shared: OwnedFd,
    pub(crate) config: Config,
}

/// What a placement went by, for people.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Grounds {
    /// What the cgroup grants, where that is not all.
    pub(crate) granted: Option<String>,
    /// How the queues of the NICs that requests come in by fitted the workers then.
    pub(crate) nics: Vec<Alignment>,
}

/// What all workers of a generation are told.
#[derive(Serialize, Deserialize)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// The plan, which a successor of this program must not make anew: the workers run by it.
    pub(crate) workers: Vec<WorkerPlan>,
    #[serde(default)]
    pub(crate) grounds: Grounds,
    pub(crate) steered: bool,
    /// [`ember_metrics::Names`] as text.
    pub(crate) names: String,
    pub(crate) confinement: Confinement,
}

impl Source {
    /// A source that is read anew by each [`Source::load`].
    pub(crate) fn new(sources: Sources) -> Self {
        Self { origin: Origin::Known(sources), read: false }
    }

    /// The same for a process that may never need it.
    pub(crate) fn later(find: fn() -> Sources, name: String) -> Self {
        Self { origin: Origin::Later(find, name), read: true }
    }

    /// The same in a process whose predecessor has read it before.
    pub(crate) fn read_before(mut self) -> Self {
        self.read = true;
        self
    }

    /// What it is called for people.
    pub(crate) fn name(&self) -> String {
        match &self.origin {
            Origin::Known(Sources { file: Some(file), .. }) => file.display().to_string(),
            Origin::Known(_) => "built in".to_owned(),
            Origin::Later(_, name) => name.clone(),
        }
    }

    /// What is wrong with the config, in colour; none where nobody sees colours.
    pub(crate) fn report_in_colour(&self) -> Option<String> {
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let Origin::Known(sources) = &self.origin else { return None };
        colour.then(|| config::load(sources).err().map(|report| report.human(true))).flatten()
    }

    /// Reads the config and places the workers; says what the config has to be warned of.
    ///
    /// # Errors
    /// The whole report of what is wrong, as a person wants to read it.
    pub(crate) fn load(&mut self, names: &mut Names) -> Result<Settings, String> {
        let again = std::mem::replace(&mut self.read, true);
        let sources = match &self.origin {
            Origin::Known(sources) => sources.clone(),
            Origin::Later(find, _) => {
                let mut sources = find();
                sources.environment.remove(super::upgrade::VARIABLE);
                sources
            }
        };
        if again && sources.file.as_deref() == Some(Path::new("-")) {
            let why = "the config was read from standard input, which cannot be read again; \
                       start with -c FILE to change it later";
            return Err(why.to_owned());
        }
        let loaded = config::load(&sources).map_err(|report| report.human(false))?;
        if !again {
            log::follow(&loaded.config.log);
        }
        if loaded.warnings.warnings() > 0 {
            let report = loaded.warnings.human(false);
            warn!("{}", report.strip_prefix("warning: ").unwrap_or(&report));
        }
        let (settings, warnings) = Settings::new(loaded.config, names)?;
        // What a reload cannot change has been said before.
        for warning in warnings.iter().filter(|_| !again) {
            warn!("{warning}");
        }
        Ok(settings)
    }
}

impl Settings {
    /// What a config means on this machine, and what is to be said about that.
    fn new(mut config: Config, names: &mut Names) -> Result<(Self, Vec<String>), String> {
        let (workers, grounds, steered) = place(&config)?;
        let (user, about_user) = confine::resolve(config.user.as_deref())?;
        if user.is_some() && config.workers.in_process {
            return Err(IN_PROCESS_AS_ROOT.to_owned());
        }
        limits::make_room_for_locked_memory();
        let about_room = limits::make_room_for_connections(&mut config);
        let confinement = Confinement { user, fence: config.workers.sandbox };
        worker::intern(names, &config);
        for label in tune::labels(&config) {
            names.intern(&label);
        }
        let names = names.to_text();
        let shared = Shared { config, workers, grounds, steered, names, confinement };
        let memory = serde_json::to_vec(&shared)
            .map_err(io::Error::other)
            .and_then(|json| spawn::memory("emberd-config", &json))
            .map_err(|error| format!("cannot hand the config to the workers: {error}"))?;
        let warnings = about_user.into_iter().chain(about_room).collect();
        Ok((Self::assemble(shared, memory), warnings))
    }

    /// What a predecessor had made of its config.
    pub(crate) fn from_shared(memory: OwnedFd) -> Result<Self, String> {
        let shared = Shared::read(&memory).map_err(|error| error.to_string())?;
        Ok(Self::assemble(shared, memory))
    }

    fn assemble(shared: Shared, memory: OwnedFd) -> Self {
        let Shared { config, workers, grounds, steered, .. } = shared;
        Self {
            wanted: wanted(&config),
            pinned: true,
            steered,
            in_process: config.workers.in_process,
            drain_timeout: config.limits.drain_timeout,
            unready_for: config.limits.drain_delay,
            start_timeout: START_TIMEOUT,
            stuck_after: config.workers.stuck_timeout,
            workers,
            grounds,
            shared: memory,
            config,
        }
    }

    /// How many ring threads there are in all workers.
    pub(crate) fn threads(&self) -> usize {
        self.workers.iter().map(|worker| worker.cpus.len()).sum()
    }

    /// A slot for each thread, in the order of the workers.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        let cpus = self.workers.iter().flat_map(|worker| &worker.cpus);
        cpus.map(|cpu| Slot { steer_to: self.steered.then_some(*cpu) }).collect()
    }
}

impl Shared {
    /// What the supervisor left in memory.
    pub(crate) fn read(memory: &OwnedFd) -> io::Result<Self> {
        let json = spawn::read_memory(memory)?;
        serde_json::from_slice(&json).map_err(|error| {
            let why = format!("the config in memory is of another version: {error}");
            io::Error::new(io::ErrorKind::InvalidData, why)
        })
    }
}

/// Giving up root would take it from the supervisor too, which may need it for the next reload.
const IN_PROCESS_AS_ROOT: &str = "workers.in_process: started by root, the worker would keep all \
     rights, since the supervisor lives in its process; start emberd as an ordinary user, leave \
     workers.in_process off, or accept it with user = \"root\"";

/// The sockets of all listeners in their order; that of the admin pages comes last.
fn wanted(config: &Config) -> Vec<Wanted> {
    let listeners = config.listeners.iter().map(|listener| Wanted {
        name: listener.name.clone(),
        address: listener.address.clone(),
        backlog: listener.backlog,
        mode: listener.mode,
    });
    let admin = config.admin.iter().map(|admin| Wanted {
        name: boot::ADMIN_LISTENER.to_owned(),
        address: admin.listen.clone(),
        backlog: ADMIN_BACKLOG,
        mode: None,
    });
    listeners.chain(admin).collect()
}

/// Queue of the admin listener: few ask there.
const ADMIN_BACKLOG: u32 = 128;

fn place(config: &Config) -> Result<(Vec<WorkerPlan>, Grounds, bool), String> {
    let topology = Topology::detect().map_err(|error| error.to_string())?;
    let nics = tune::nics(config)?;
    let places: Vec<NicPlace> = nics.iter().map(|nic| nic.place.clone()).collect();
    let mut workers = plan::workers(&topology, &config.placement(), &places)
        .map_err(|error| format!("the workers cannot be placed: {error}"))?;
    if config.workers.in_process {
        workers.truncate(1);
    }
    let local = config.listeners.iter().all(|listener| listener.address.is_local());
    let cpus: Vec<u32> = workers.iter().flat_map(|worker| worker.cpus.iter().copied()).collect();
    let steered = steering::choose(&cpus, local, &tune::handling_cpus(&nics)).steering
        == Steering::IncomingCpu;
    let granted = ember_affinity::limits::words(topology.limits());
    let grounds = Grounds { granted, nics: tune::alignment(&workers, &nics) };
    Ok((workers, grounds, steered))
}
