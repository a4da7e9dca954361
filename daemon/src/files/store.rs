//! The files that a thread has at hand, and the way to those that it has not.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use hashlink::LruCache;
use rustc_hash::{FxBuildHasher, FxHashMap};
use rustix::io::Errno;

use super::entry::{Entry, Found, Watched};
use super::helpers;
use super::place::Place;
use super::rules::Rules;
use super::tree::{Tree, Wait};

/// How often a file that changes while it is opened is looked at again.
const TRIES: usize = 3;

/// The open files of one route, on one thread.
pub(super) struct Store {
    pub(super) tree: Arc<Tree>,
    pub(super) rules: Arc<Rules>,
    /// How long a file is served without a look whether it has changed.
    fresh: Duration,
    cache: RefCell<Cache>,
    /// What helpers are finding out. One for each path, however many ask.
    flights: RefCell<FxHashMap<Box<str>, Rc<Flight>>>,
}

/// A file at hand.
pub(super) struct Cached {
    pub(super) entry: Box<Entry>,
    checked: Cell<Instant>,
}

/// What a path leads to.
pub(super) enum Answer {
    File(Rc<Cached>),
    Slash,
    Listing(Place),
}

struct Cache {
    /// By what stands below the prefix. Only paths of files that are there come in, so nobody can
    /// choose keys to make it slow.
    entries: LruCache<Box<str>, Rc<Cached>, FxBuildHasher>,
    files_max: usize,
    memory: usize,
    memory_max: usize,
}

#[derive(Default)]
struct Flight {
    is_over: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

/// Ends a flight, also when its request is given up.
struct Landing<'a> {
    store: &'a Store,
    path: &'a str,
    flight: Rc<Flight>,
}

impl Store {
    pub(super) fn new(
        tree: Tree,
        rules: Arc<Rules>,
        fresh: Duration,
        files_max: usize,
        memory_max: usize,
    ) -> Store {
        let entries = LruCache::with_hasher(usize::MAX, FxBuildHasher);
        let cache = RefCell::new(Cache { entries, files_max, memory: 0, memory_max });
        Store { tree: Arc::new(tree), rules, fresh, cache, flights: RefCell::default() }
    }

    /// The file at a path below the prefix, if it is at hand and need not be looked at.
    pub(super) fn at_hand(&self, below: &str) -> Option<Rc<Cached>> {
        let mut cache = self.cache.borrow_mut();
        let cached = cache.entries.get(below)?;
        (cached.checked.get().elapsed() < self.fresh).then(|| Rc::clone(cached))
    }

    /// What a path below the prefix leads to.
    ///
    /// # Errors
    /// Of the system.
    pub(super) async fn find(&self, below: &str) -> io::Result<Answer> {
        loop {
            if let Some(cached) = self.checked(below).await {
                return Ok(Answer::File(cached));
            }
            let Some(place) = Place::of(below, self.rules.dotfiles) else {
                return Err(io::ErrorKind::NotFound.into());
            };
            match Found::of(&self.tree, &self.rules, &place, Wait::Never) {
                Err(error) if is_to_wait(&error) => {}
                found => return self.take_in(below, place, found),
            }
            let flying = self.flights.borrow().get(below).map(Rc::clone);
            if let Some(flight) = flying {
                // What it finds is at hand then, or at least in the kernel's memory.
                flight.over().await;
                continue;
            }
            let landing = self.take_off(below);
            let found = self.look(&place).await;
            let answer = self.take_in(below, place, found);
            drop(landing);
            return answer;
        }
    }

    /// Forgets a file that was found to have changed.
    pub(super) fn forget(&self, below: &str) {
        self.cache.borrow_mut().remove(below);
    }

    /// The file, if it is at hand and still as it was.
    async fn checked(&self, below: &str) -> Option<Rc<Cached>> {
        let cached = self.cache.borrow_mut().entries.get(below).map(Rc::clone)?;
        if cached.checked.get().elapsed() < self.fresh {
            return Some(cached);
        }
        // Others go on with it meanwhile.
        cached.checked.set(Instant::now());
        let watched = &cached.entry.watched;
        let current = match Watched::are_as_they_were(watched, &self.tree, Wait::Never) {
            Ok(current) => current,
            Err(_) => {
                let (watched, tree) = (Arc::clone(watched), Arc::clone(&self.tree));
                let look = move || Watched::are_as_they_were(&watched, &tree, Wait::Allowed);
                helpers::run(look).await.unwrap_or(false)
            }
        };
        if current {
            return Some(cached);
        }
        self.forget(below);
        None
    }

    /// Has a helper look.
    async fn look(&self, place: &Place) -> io::Result<Found> {
        let (tree, rules, place) = (Arc::clone(&self.tree), Arc::clone(&self.rules), place.clone());
        helpers::run(move || {
            let mut tries = 1;
            loop {
                match Found::of(&tree, &rules, &place, Wait::Allowed) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted && tries < TRIES => {
                        tries += 1;
                    }
                    other => return other,
                }
            }
        })
        .await
    }

    fn take_in(&self, below: &str, place: Place, found: io::Result<Found>) -> io::Result<Answer> {
        match found {
            Ok(Found::File(entry)) => {
                let cached = Rc::new(Cached { entry, checked: Cell::new(Instant::now()) });
                self.cache.borrow_mut().insert(below, &cached);
                Ok(Answer::File(cached))
            }
            Ok(Found::Slash) => Ok(Answer::Slash),
            Ok(Found::Listing) => Ok(Answer::Listing(place)),
            Err(error) => {
                if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) {
                    // Descriptors of files that may not be asked for again.
                    self.cache.borrow_mut().clear();
                }
                Err(error)
            }
        }
    }

    fn take_off<'a>(&'a self, path: &'a str) -> Landing<'a> {
        let flight = Rc::new(Flight::default());
        self.flights.borrow_mut().insert(path.into(), Rc::clone(&flight));
        Landing { store: self, path, flight }
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.store.flights.borrow_mut().remove(self.path);
        self.flight.is_over.set(true);
        for waker in self.flight.waiting.take() {
            waker.wake();
        }
    }
}

impl Flight {
    async fn over(&self) {
        poll_fn(|cx| {
            if self.is_over.get() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Cache {
    fn insert(&mut self, path: &str, cached: &Rc<Cached>) {
        self.memory += cached.entry.memory();
        if let Some(before) = self.entries.insert(path.into(), Rc::clone(cached)) {
            self.memory -= before.entry.memory();
        }
        while self.entries.len() > self.files_max || self.memory > self.memory_max {
            let Some((_, oldest)) = self.entries.remove_lru() else { return };
            self.memory -= oldest.entry.memory();
        }
    }

    fn remove(&mut self, path: &str) {
        if let Some(before) = self.entries.remove(path) {
            self.memory -= before.entry.memory();
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.memory = 0;
    }
}

/// Whether it cannot be found out without waiting, or changed meanwhile.
fn is_to_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
