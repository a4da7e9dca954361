//! What it costs the server to send a file that lies in the page cache, in each way there is.
//!
//!     cargo run --release -p ember-uring --example filesend -- [BYTES]... [rounds=N]
//!
//! Every way answers the same clients over loopback, one after the other and again; the least of the
//! rounds is printed, in microseconds of the serving thread's CPU time for each reply. Bytes sent
//! without a copy are copied by loopback all the same: over a network card that way costs less.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;

use ember_uring::{
    Completion, Driver, Epoll, Mapped, Mapping, Options, Payload, Piece, Pinned, Region, Then,
    Uring,
};
use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, splice};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::sendfile::sendfile;
use nix::sys::time::TimeValLike;
use nix::unistd::pipe;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const CLIENTS: usize = 8;
/// Bytes that each client takes in a round.
const VOLUME: usize = 256 << 20;
/// As large as an ordinary user may make a pipe.
const PIPE: i32 = 1 << 20;

#[derive(Clone, Copy, Debug)]
enum Way {
    /// The mapping is kept: ring.
    Mapped,
    /// The same over epoll.
    MappedEpoll,
    /// Mapped anew for each reply.
    MappedAnew,
    /// Mapped anew and populated before it is sent.
    MappedPopulated,
    /// Read into a new buffer, then sent.
    Read,
    /// Kept in memory of the process.
    Pinned,
    /// The same, sent without a copy as far as the kernel can.
    PinnedZeroCopy,
    /// sendfile(2) on a socket that blocks.
    Sendfile,
    /// splice(2) through a pipe on a socket that blocks.
    Splice,
}

const WAYS: [Way; 9] = [
    Way::Mapped,
    Way::MappedEpoll,
    Way::MappedAnew,
    Way::MappedPopulated,
    Way::Read,
    Way::Pinned,
    Way::PinnedZeroCopy,
    Way::Sendfile,
    Way::Splice,
];

fn main() -> Result<()> {
    let mut sizes = Vec::new();
    let mut rounds = 5;
    for word in std::env::args().skip(1) {
        match word.strip_prefix("rounds=") {
            Some(count) => rounds = count.parse()?,
            None => sizes.push(word.parse()?),
        }
    }
    if sizes.is_empty() {
        sizes = vec![64 << 10, 1 << 20];
    }
    for size in sizes {
        println!("{size} bytes, {CLIENTS} clients, microseconds a reply:");
        let mut file = tempfile::tempfile()?;
        file.write_all(&vec![b'x'; size])?;
        let mut least = [f64::INFINITY; WAYS.len()];
        for _ in 0..rounds {
            for (way, least) in WAYS.iter().zip(&mut least) {
                *least = least.min(measure(*way, &file, size)?);
            }
        }
        for (way, least) in WAYS.iter().zip(least) {
            println!("  {:16} {least:8.1}", format!("{way:?}"));
        }
    }
    Ok(())
}

/// The CPU time of one reply.
fn measure(way: Way, file: &File, size: usize) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let replies = (VOLUME / size / CLIENTS).max(1);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| thread::spawn(move || take(TcpStream::connect(address)?, replies, size)))
        .collect();
    let before = cpu_us()?;
    match way {
        Way::Sendfile | Way::Splice => serve_blocking(way, &listener, file, size)?,
        Way::MappedEpoll => {
            serve(way, Epoll::new(&Options::default())?, listener, file, size)?;
        }
        Way::PinnedZeroCopy => {
            let options = Options { zero_copy_min: Some(1), ..Options::default() };
            serve(way, Uring::new(options)?, listener, file, size)?;
        }
        _ => serve(way, Uring::new(Options::default())?, listener, file, size)?,
    }
    let spent = cpu_us()? - before;
    for client in clients {
        client.join().map_err(|_| "a client panicked")??;
    }
    Ok(spent as f64 / (replies * CLIENTS) as f64)
}

/// Asks with one byte and takes the reply, again and again.
fn take(mut stream: TcpStream, replies: usize, size: usize) -> std::io::Result<()> {
    let mut memory = vec![0; 256 << 10];
    for _ in 0..replies {
        stream.write_all(b"?")?;
        let mut left = size;
        while left > 0 {
            let most = left.min(memory.len());
            left -= match stream.read(&mut memory[..most])? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                len => len,
            };
        }
    }
    Ok(())
}

fn serve<D: Driver>(
    way: Way,
    mut driver: D,
    listener: TcpListener,
    file: &File,
    size: usize,
) -> Result<()> {
    driver.accept(listener.into())?;
    let kept = Arc::new(Mapping::new(file.try_clone()?, size)?);
    let region = Region::new(size + (1 << 20))?;
    let pinned = region.alloc_from(&vec![b'x'; size]).ok_or("no room")?;
    let (mut out, mut ended) = (Vec::new(), 0);
    while ended < CLIENTS {
        driver.turn(None, &mut out)?;
        for completion in out.drain(..) {
            match completion {
                Completion::Accepted { sock, .. } => {
                    driver.recv(sock).map_err(|_| "the queue is full")?;
                }
                Completion::Received { sock, buffer } => {
                    driver.give_back(buffer);
                    let reply = reply(way, &kept, &pinned, file, size)?;
                    driver.send(sock, reply, Then::Recv).map_err(|_| "the queue is full")?;
                }
                Completion::Ended { sock } | Completion::Failed { sock, .. } => driver.close(sock),
                Completion::Closed { .. } => ended += 1,
                _ => {}
            }
        }
    }
    Ok(())
}

fn reply(
    way: Way,
    kept: &Arc<Mapping>,
    pinned: &Pinned,
    file: &File,
    size: usize,
) -> Result<Payload> {
    let anew = || Ok::<_, std::io::Error>(Arc::new(Mapping::new(file.try_clone()?, size)?));
    let mapped = |mapping| Payload::from(Piece::Mapped(Mapped::new(mapping, 0..size)));
    Ok(match way {
        Way::MappedAnew => mapped(&anew()?),
        Way::MappedPopulated => {
            let mapping = anew()?;
            mapping.populate(0..size)?;
            mapped(&mapping)
        }
        Way::Read => {
            let mut bytes = vec![0; size];
            file.read_exact_at(&mut bytes, 0)?;
            Payload::from(bytes)
        }
        Way::Pinned | Way::PinnedZeroCopy => Payload::Pinned(pinned.clone()),
        _ => mapped(kept),
    })
}

/// One socket after the other; each blocks until all has been handed over.
fn serve_blocking(way: Way, listener: &TcpListener, file: &File, size: usize) -> Result<()> {
    let mut streams = Vec::new();
    for _ in 0..CLIENTS {
        streams.push(listener.accept()?.0);
    }
    let (from, to) = pipe()?;
    fcntl(&to, FcntlArg::F_SETPIPE_SZ(PIPE))?;
    while !streams.is_empty() {
        let mut over = Vec::new();
        for (at, stream) in streams.iter_mut().enumerate() {
            if stream.read(&mut [0])? == 0 {
                over.push(at);
                continue;
            }
            let (mut offset, mut left) = (0i64, size);
            while left > 0 {
                left -= if matches!(way, Way::Splice) {
                    let most = left.min(PIPE as usize);
                    let taken = splice(file, Some(&mut offset), &to, None, most, flags())?;
                    let mut rest = taken;
                    while rest > 0 {
                        rest -= splice(&from, None, &*stream, None, rest, flags())?;
                    }
                    taken
                } else {
                    sendfile(&*stream, file, Some(&mut offset), left)?
                };
            }
        }
        for at in over.into_iter().rev() {
            streams.remove(at);
        }
    }
    Ok(())
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE
}

/// CPU time of this thread so far.
fn cpu_us() -> Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok(usage.user_time().num_microseconds() + usage.system_time().num_microseconds())
}
