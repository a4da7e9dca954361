//! Connecting to names: look-up on threads of its own, and Happy Eyeballs (RFC 8305).

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Address, Stream};
use crate::blocking::BlockingPool;
use crate::time::{Sleep, sleep, timeout};

/// How long one attempt is given before the next begins beside it (RFC 8305 section 5, the
/// Connection Attempt Delay).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Look-ups at a time. A name server that does not answer holds a thread for its resolver's time.
const LOOKUP_THREADS: usize = 4;
/// Look-ups that wait for a thread.
const LOOKUPS_QUEUED_MAX: usize = 256;

impl Stream {
    /// Connects within this time, or fails with [`io::ErrorKind::TimedOut`].
    ///
    /// # Errors
    /// Why the connection did not come about.
    ///
    /// # Panics
    /// Outside of a worker thread's handlers, tasks and hooks.
    pub async fn connect_within(limit: Duration, address: &Address) -> io::Result<Stream> {
        timeout(limit, Stream::connect(address)).await.unwrap_or_else(|_| Err(late(limit)))
    }

    /// Looks a host name up and connects to whichever of its addresses answers first (RFC 8305),
    /// all within this time. An address in digits needs no look-up.
    ///
    /// # Errors
    /// Why the name has no address, or why the last address tried could not be connected to.
    ///
    /// # Panics
    /// Outside of a worker thread's handlers, tasks and hooks.
    pub async fn connect_to(limit: Duration, host: &str, port: u16) -> io::Result<Stream> {
        let all = async {
            let addresses = resolve(host, port).await?;
            let connect = async |address| Stream::connect(&Address::Inet(address)).await;
            first_of(interleaved(addresses), connect).await.map_err(|error| {
                io::Error::new(error.kind(), format!("connecting to {host}:{port}: {error}"))
            })
        };
        timeout(limit, all).await.unwrap_or_else(|_| Err(late(limit)))
    }
}

/// The addresses of a host in the order of the system's preference (RFC 6724), asked of the
/// system's resolver on a thread that may wait.
///
/// # Errors
/// What the resolver says, or that too many look-ups wait already.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let digits = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = digits.parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    static POOL: OnceLock<BlockingPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| BlockingPool::new(LOOKUP_THREADS, LOOKUPS_QUEUED_MAX));
    let name = host.to_owned();
    let looked_up = pool.run(move || (name.as_str(), port).to_socket_addrs().map(Vec::from_iter));
    let failed = |why: String| io::Error::other(format!("looking {host} up: {why}"));
    let addresses = looked_up.await.map_err(|error| failed(error.to_string()))?;
    match addresses {
        Ok(addresses) if addresses.is_empty() => Err(failed("it has no address".to_owned())),
        Ok(addresses) => Ok(addresses),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn late(limit: Duration) -> io::Error {
    let ms = limit.as_millis();
    io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {ms} ms"))
}

/// Families in turn, beginning with that of the first address (RFC 8305 section 4).
fn interleaved(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut all = VecDeque::new();
    loop {
        let pair = [same.next(), other.next()];
        if pair == [None, None] {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

/// Attempts under way, and what is still to be tried.
struct Race<F, C> {
    left: VecDeque<SocketAddr>,
    connect: C,
    running: Vec<Pin<Box<F>>>,
    /// Until the next begins.
    delay: Sleep,
    error: io::Error,
}

/// Tries one after the other, each beside those before it; the first that comes about ends all.
async fn first_of<T, F>(
    addresses: VecDeque<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut race = Race {
        left: addresses,
        connect,
        running: Vec::new(),
        delay: sleep(Duration::ZERO),
        error: io::ErrorKind::AddrNotAvailable.into(),
    };
    poll_fn(move |cx| race.poll(cx)).await
}

impl<T, F, C> Race<F, C>
where
    F: Future<Output = io::Result<T>>,
    C: Fn(SocketAddr) -> F,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            let mut failed = false;
            let mut at = 0;
            while at < self.running.len() {
                match self.running[at].as_mut().poll(cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(Ok(stream)) => return Poll::Ready(Ok(stream)),
                    Poll::Ready(Err(error)) => {
                        drop(self.running.swap_remove(at));
                        self.error = error;
                        failed = true;
                    }
                }
            }
            // A failure is not waited for: the next begins at once.
            let due = failed || Pin::new(&mut self.delay).poll(cx).is_ready();
            match self.left.pop_front() {
                Some(address) if due => {
                    self.running.push(Box::pin((self.connect)(address)));
                    self.delay = sleep(ATTEMPT_DELAY);
                }
                Some(address) => {
                    self.left.push_front(address);
                    return Poll::Pending;
                }
                None if self.running.is_empty() => {
                    let error = std::mem::replace(&mut self.error, io::ErrorKind::Other.into());
                    return Poll::Ready(Err(error));
                }
                None => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::rt::Runtime;
    use crate::rt::tests::run;

    fn address(text: &str) -> SocketAddr {
        format!("{text}:80").parse().unwrap()
    }

    #[test]
    fn families_take_turns() {
        let of = |texts: &[&str]| texts.iter().map(|text| address(text)).collect::<Vec<_>>();
        let mixed = of(&["[::1]", "[::2]", "[::3]", "127.0.0.1"]);
        assert_eq!(interleaved(mixed), of(&["[::1]", "127.0.0.1", "[::2]", "[::3]"]));
        assert_eq!(interleaved(of(&["127.0.0.1"])), of(&["127.0.0.1"]));
    }

    /// Attempts by their beginning, against a host of which some addresses refuse, some are
    /// silent, and some answer after a while.
    fn race(hosts: &[(&'static str, Result<u64, ()>)]) -> (Vec<(u64, SocketAddr)>, Option<String>) {
        let runtime = Runtime::new(|| {});
        let _entered = runtime.enter();
        let clock = Rc::new(RefCell::new(0));
        let begun = Rc::new(RefCell::new(Vec::new()));
        let table: Vec<(SocketAddr, Result<u64, ()>)> =
            hosts.iter().map(|(text, ms)| (address(text), *ms)).collect();
        let addresses = table.iter().map(|(address, _)| *address).collect();
        let (noted, now) = (Rc::clone(&begun), Rc::clone(&clock));
        let connect = move |address: SocketAddr| {
            noted.borrow_mut().push((*now.borrow(), address));
            let answer = table.iter().find(|(of, _)| *of == address).expect("in the table").1;
            async move {
                match answer {
                    Ok(ms) => sleep(Duration::from_millis(ms)).await,
                    Err(()) => return Err(io::ErrorKind::ConnectionRefused.into()),
                }
                Ok(address)
            }
        };
        let outcome = Rc::new(RefCell::new(None));
        let told = Rc::clone(&outcome);
        drop(crate::spawn(async move {
            let won = first_of(addresses, connect).await;
            *told.borrow_mut() = Some(match won {
                Ok(address) => address.ip().to_string(),
                Err(error) => error.kind().to_string(),
            });
        }));
        for now_ms in 0..2000 {
            *clock.borrow_mut() = now_ms;
            runtime.set_clock(now_ms);
            run(&runtime);
        }
        (begun.take(), outcome.take())
    }

    #[test]
    fn a_silent_address_is_overtaken() {
        let (begun, won) = race(&[("[::1]", Ok(100_000)), ("127.0.0.1", Ok(10))]);
        assert_eq!(won.as_deref(), Some("127.0.0.1"));
        assert_eq!(begun.len(), 2);
        assert!((250..=252).contains(&begun[1].0), "{begun:?}");
    }

    #[test]
    fn a_slow_first_address_still_wins_and_spares_the_others() {
        let (begun, won) = race(&[("[::1]", Ok(200)), ("127.0.0.1", Ok(0))]);
        assert_eq!((begun.len(), won.as_deref()), (1, Some("::1")));
        let (begun, won) = race(&[("[::1]", Ok(300)), ("127.0.0.1", Ok(100))]);
        assert_eq!((begun.len(), won.as_deref()), (2, Some("::1")));
    }

    #[test]
    fn refusals_are_not_waited_for() {
        let (begun, won) = race(&[("[::1]", Err(())), ("[::2]", Err(())), ("127.0.0.1", Ok(1))]);
        assert_eq!(won.as_deref(), Some("127.0.0.1"));
        assert_eq!(begun.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 0, 0]);
        let (_, won) = race(&[("[::1]", Err(())), ("127.0.0.1", Err(()))]);
        assert_eq!(won.as_deref(), Some("connection refused"));
    }
}
