//! Steering of new connections to the worker on whose CPU their packets are handled.
//!
//! SO_INCOMING_CPU on each listening socket of a SO_REUSEPORT group names a socket's CPU, and
//! goes on holding when a worker is started again on the same socket. A classic BPF program
//! that returns the CPU would index the group by listen order, which a closed socket changes,
//! so it is not used; nor may both be set at once. Kernels before 6.2 rank the sockets of a
//! group wrongly in some set-ups, so what counts is what a trial shows.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::bind::pin_thread;
use crate::cpu_set::CpuSet;
use crate::queues::Steering;

/// How many CPUs the trial asks; what two of them show holds for all.
const TRIAL_CPUS_MAX: usize = 4;
/// How many connections each of them makes. By the hash alone, two sockets would all get the
/// right ones once in 65,536 trials.
const TRIAL_CONNECTIONS: usize = 8;
/// How long one may take to be there: on a busy CPU the last packet of its handshake is handled
/// after its client has gone on.
const TRIAL_PATIENCE: Duration = Duration::from_millis(500);
/// Room for all of them at one socket.
const BACKLOG: i32 = 64;

/// A decision and what it rests on, for the start-up line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How connections find their worker.
    pub steering: Steering,
    /// Why.
    pub reason: String,
}

/// Names the CPU whose connections a listening socket of a SO_REUSEPORT group is to get.
///
/// # Errors
/// What setsockopt(2) said.
pub fn set_incoming_cpu(socket: &impl AsFd, cpu: u32) -> io::Result<()> {
    SockRef::from(socket).set_cpu_affinity(cpu as usize)
}

/// Decides for listeners served by threads on `cpus`, by trial where a trial makes sense.
/// `local_clients` says that all listeners are on loopback or unix sockets; `handling` is where
/// the NICs' packets are handled. A worker on another CPU would never get a connection.
pub fn choose(cpus: &[u32], local_clients: bool, handling: &CpuSet) -> Choice {
    let hash = |reason: &str| Choice { steering: Steering::Hash, reason: reason.to_string() };
    let mut distinct = cpus.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    if cpus.len() < 2 {
        return hash("one thread: nothing to choose between");
    }
    if distinct.len() < cpus.len() {
        return hash("several threads share a CPU");
    }
    if local_clients {
        return hash("clients on this host run on the workers' own CPUs");
    }
    if !distinct.iter().all(|&cpu| handling.contains(cpu)) {
        return hash(
            "packets are not bound to be handled on each worker's CPU (--tune binds them)",
        );
    }
    match incoming_cpu_works(&distinct) {
        Ok(true) => Choice {
            steering: Steering::IncomingCpu,
            reason: "SO_INCOMING_CPU: a trial on loopback reached the right socket".to_string(),
        },
        Ok(false) => hash("this kernel does not steer by SO_INCOMING_CPU: a trial missed"),
        Err(error) => hash(&format!("no trial of SO_INCOMING_CPU could be made: {error}")),
    }
}

/// Tries on loopback whether connections made on a CPU arrive at the socket of that CPU.
///
/// # Errors
/// Where the trial itself cannot be made, as with CPUs that this process may not run on.
pub fn incoming_cpu_works(cpus: &[u32]) -> io::Result<bool> {
    let cpus = &cpus[..cpus.len().min(TRIAL_CPUS_MAX)];
    let Some((&first, others)) = cpus.split_first() else { return Ok(false) };
    let listeners = vec![listener(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), first)?];
    let SocketAddr::V4(address) = listeners[0].local_addr()? else {
        return Err(io::Error::other("an IPv4 socket with another address"));
    };
    let rest = others.iter().map(|&cpu| listener(address, cpu));
    let listeners: Vec<TcpListener> =
        listeners.into_iter().map(Ok).chain(rest).collect::<io::Result<_>>()?;
    for (listener, &cpu) in listeners.iter().zip(cpus) {
        // Kept open until counted: a connection that its client has reset is not accepted.
        let _clients = connect_from(cpu, address)?;
        for _ in 0..TRIAL_CONNECTIONS {
            if accept(listener)?.is_none() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// A listening socket that waits a while for connections, in a SO_REUSEPORT group, for one CPU.
fn listener(address: SocketAddrV4, cpu: u32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_read_timeout(Some(TRIAL_PATIENCE))?;
    socket.set_reuse_port(true)?;
    set_incoming_cpu(&socket, cpu)?;
    socket.bind(&SocketAddr::V4(address).into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Connections made by a thread that runs on this CPU only. Loopback handles a packet on the
/// CPU that sent it.
fn connect_from(cpu: u32, address: SocketAddrV4) -> io::Result<Vec<TcpStream>> {
    let connect = move || {
        pin_thread(cpu)?;
        (0..TRIAL_CONNECTIONS).map(|_| TcpStream::connect(address)).collect()
    };
    let ended = thread::Builder::new().name(format!("steering-{cpu}")).spawn(connect)?.join();
    ended.unwrap_or_else(|_| Err(io::Error::other("the trial's thread panicked")))
}

fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Topology;

    fn two_cpus() -> Option<[u32; 2]> {
        let usable: Vec<u32> = Topology::detect().expect("topology").usable_cpus().iter().collect();
        match usable[..] {
            [first, second, ..] => Some([first, second]),
            _ => {
                println!("skipped: one CPU only");
                None
            }
        }
    }

    /// Connections made on each CPU, as counted at each socket.
    fn arrivals(cpus: [u32; 2], sockets: &[&TcpListener; 2]) -> [[usize; 2]; 2] {
        cpus.map(|cpu| {
            let SocketAddr::V4(address) = sockets[0].local_addr().expect("address") else {
                panic!("not IPv4")
            };
            let _clients = connect_from(cpu, address).expect("connect");
            sockets.map(|socket| std::iter::from_fn(|| accept(socket).expect("accept")).count())
        })
    }

    #[test]
    fn connections_arrive_at_their_cpus_worker_also_after_one_was_restarted() {
        let Some(cpus) = two_cpus() else { return };
        if !incoming_cpu_works(&cpus).expect("trial") {
            println!("skipped: this kernel does not steer by SO_INCOMING_CPU");
            return;
        }
        let right = [[TRIAL_CONNECTIONS, 0], [0, TRIAL_CONNECTIONS]];
        let first = listener(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), cpus[0]).expect("first");
        let SocketAddr::V4(address) = first.local_addr().expect("address") else {
            panic!("not IPv4")
        };
        let second = listener(address, cpus[1]).expect("second");
        assert_eq!(arrivals(cpus, &[&first, &second]), right);
        // The supervisor keeps the socket; the worker's copy goes, and a new worker gets another.
        let worker = first.try_clone().expect("copy");
        drop(worker);
        let restarted = first.try_clone().expect("copy");
        assert_eq!(arrivals(cpus, &[&restarted, &second]), right);
        // Even a socket closed and bound again, which changes the group's order, gets its own.
        drop((first, restarted));
        let again = listener(address, cpus[0]).expect("again");
        assert_eq!(arrivals(cpus, &[&again, &second]), right);
    }

    #[test]
    fn steering_is_by_hash_where_a_cpu_says_nothing() {
        let all: CpuSet = (0..1024).collect();
        let one: CpuSet = [0].into_iter().collect();
        let reasons = [
            choose(&[0], false, &all),
            choose(&[0, 0], false, &all),
            choose(&[0, 1], true, &all),
            choose(&[0, 1], false, &one),
            choose(&[1022, 1023], false, &all),
        ];
        for choice in reasons {
            assert_eq!(choice.steering, Steering::Hash, "{choice:?}");
            assert!(!choice.reason.is_empty());
        }
    }
}
