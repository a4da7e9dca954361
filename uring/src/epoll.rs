//! The epoll driver, for kernels that have or allow no io_uring.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{self as sys, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{self, MsgFlags, Shutdown, SockFlag, sockopt};

use crate::address::Raw;
use crate::delivery::delivery_of;
use crate::peer::peer_of;
use crate::ready::{Event, Ready, System};
use crate::ring::sockets_max;
use crate::{Address, Delivery, Errno, Options, Payload, PeerAddr, Waker};

/// The epoll driver.
pub type Epoll = Ready<Kernel>;

/// The kernel's sockets, watched by epoll.
pub struct Kernel {
    epoll: sys::Epoll,
    events: Vec<EpollEvent>,
}

/// Events taken from the kernel at a time.
const EVENTS_MAX: usize = 256;

/// What an event belongs to: the highest bits, over the index.
const OF_SOCKET: u64 = 0;
const OF_LISTENER: u64 = 1 << 62;
const OF_WAKER: u64 = 2 << 62;
const INDEX: u64 = (1 << 62) - 1;

impl Epoll {
    /// Makes a driver. Of the options it needs only the sizes.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor.
    pub fn new(options: &Options) -> io::Result<Epoll> {
        let epoll = sys::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let waker = Waker::new()?;
        epoll.add(waker.event(), EpollEvent::new(EpollFlags::EPOLLIN, OF_WAKER))?;
        let kernel = Kernel { epoll, events: vec![EpollEvent::empty(); EVENTS_MAX] };
        Ok(Ready::over(kernel, options, waker, sockets_max(options)?))
    }
}

impl System for Kernel {
    type Socket = OwnedFd;
    type Listener = OwnedFd;

    const NAME: &'static str = "epoll";

    fn listen(&mut self, fd: OwnedFd, index: u32) -> io::Result<OwnedFd> {
        // Another process may take the connection between the event and the accept.
        set_nonblocking(&fd)?;
        let data = OF_LISTENER | u64::from(index);
        self.epoll.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, data))?;
        Ok(fd)
    }

    fn watch(&mut self, listener: &OwnedFd, index: u32, on: bool) {
        let interest = if on { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        let mut event = EpollEvent::new(interest, OF_LISTENER | u64::from(index));
        let changed = self.epoll.modify(listener, &mut event);
        debug_assert!(changed.is_ok(), "a listener is watched for life: {changed:?}");
    }

    fn accept(&mut self, listener: &OwnedFd) -> Result<OwnedFd, Errno> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket::accept4(listener.as_raw_fd(), flags)?;
        // SAFETY: The kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn adopt(&mut self, fd: OwnedFd) -> io::Result<OwnedFd> {
        set_nonblocking(&fd)?;
        Ok(fd)
    }

    fn connect(&mut self, address: &Address) -> io::Result<OwnedFd> {
        let fd = address.socket(SockFlag::SOCK_NONBLOCK)?;
        let connected = match address.raw()? {
            Raw::Inet(to) => socket::connect(fd.as_raw_fd(), &to),
            Raw::Unix(to) => socket::connect(fd.as_raw_fd(), &to),
        };
        match connected {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
            Err(error) => Err(error.into()),
        }
    }

    fn connected(&mut self, socket: &OwnedFd) -> Option<Result<(), Errno>> {
        match socket::getsockopt(socket, sockopt::SocketError) {
            Ok(0) => peer_of(socket.as_raw_fd()).ok().map(|_| Ok(())),
            Ok(error) => Some(Err(Errno::from_raw(error))),
            Err(error) => Some(Err(error)),
        }
    }

    fn add(&mut self, socket: &OwnedFd, slot: u32) -> Result<(), Errno> {
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP;
        let data = OF_SOCKET | u64::from(slot);
        self.epoll.add(socket, EpollEvent::new(interest | EpollFlags::EPOLLET, data))
    }

    fn recv(&mut self, socket: &OwnedFd, memory: &mut [u8]) -> Result<usize, Errno> {
        socket::recv(socket.as_raw_fd(), memory, MsgFlags::MSG_DONTWAIT)
    }

    fn peek(&mut self, socket: &OwnedFd) -> Result<usize, Errno> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        socket::recv(socket.as_raw_fd(), &mut [0], flags)
    }

    fn send(&mut self, socket: &OwnedFd, what: &mut Payload, sent: usize) -> Result<usize, Errno> {
        let fd = socket.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match what {
            Payload::Pinned(pinned) => socket::send(fd, &pinned[sent..], flags),
            Payload::Owned(bytes) => socket::send(fd, &bytes[sent..], flags),
            Payload::Gather(gather) => {
                let header = gather.header(sent);
                // SAFETY: Header, vector and pieces are boxed with the gather, which stays during
                // the call. Pieces of a file stay mapped as long; when it shrinks, the call fails.
                let len = unsafe { libc::sendmsg(fd, header, flags.bits()) };
                Errno::result(len).map(|len| len as usize)
            }
        }
    }

    fn shutdown(&mut self, socket: &OwnedFd) -> Result<(), Errno> {
        socket::shutdown(socket.as_raw_fd(), Shutdown::Write)
    }

    fn peer(&mut self, socket: &OwnedFd) -> io::Result<PeerAddr> {
        peer_of(socket.as_raw_fd())
    }

    fn delivery(&mut self, socket: &OwnedFd) -> Result<Delivery, Errno> {
        delivery_of(socket.as_raw_fd())
    }

    fn wait(&mut self, wait: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        // Rounded up: a timer that fires early would spin.
        let timeout = wait.map_or(EpollTimeout::NONE, |wait| {
            let ms = wait.as_nanos().div_ceil(1_000_000).min(1 << 30);
            EpollTimeout::try_from(ms as i32).unwrap_or(EpollTimeout::MAX)
        });
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        events.extend(self.events[..count].iter().map(event_of));
        Ok(())
    }
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn event_of(event: &EpollEvent) -> Event {
    let index = (event.data() & INDEX) as u32;
    match event.data() & !INDEX {
        OF_LISTENER => Event::Acceptable(index),
        OF_WAKER => Event::Woken,
        _ => {
            let flags = event.events();
            let gone = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
            Event::Ready {
                slot: index,
                readable: flags.intersects(EpollFlags::EPOLLIN | gone),
                writable: flags.intersects(EpollFlags::EPOLLOUT | gone),
                hung_up: flags.intersects(EpollFlags::EPOLLRDHUP | gone),
            }
        }
    }
}
