//! `[[files]]`: directories and single files.
//!
//! A request goes from its path to a *place* below the root without a look at the disk ([`place`]),
//! from there by openat2(2), beneath the root, to an *entry*: a file with its variants and all that
//! is said of them ([`tree`], [`entry`]). Each thread keeps the entries that are asked for
//! ([`store`]) and looks once a second whether they are as they were. Small files are in memory,
//! others mapped and sent from the page cache without being looked at ([`content`], [`body`]).
//!
//! No ring waits for a disk: what the kernel does not have in memory is opened and read in by a few
//! helper threads ([`helpers`]).

mod body;
mod content;
mod entry;
pub(crate) mod helpers;
mod listing;
mod place;
mod reply;
mod rules;
mod store;
pub(crate) mod tree;

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ember::{Handler, Request, Response};

use crate::config;
use place::Place;
use rules::Rules;
use store::{Answer, Cached, Store};
use tree::Tree;

/// How often a file that changes under our hands is opened anew for one request.
const TRIES: usize = 3;

/// How often a route tells that a file cannot be read: clients can ask for it without end.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The files of one route.
pub(crate) struct Files {
    /// Which it is, among those of the process: an index into each thread's stores.
    number: usize,
    root: PathBuf,
    /// The one file of a route that has no directory.
    single: Option<String>,
    symlinks: bool,
    rules: Arc<Rules>,
    fresh: Duration,
    files_max: usize,
    memory_max: usize,
    /// When a fault was told last.
    told: Mutex<Option<Instant>>,
}

/// Says for `emberd explain` where a request looks.
pub(crate) fn explain(config: &config::Files, request: &ember_http::Request<'_>) -> String {
    let (root, single) = config.place();
    let below = match (&single, request.raw_param(0)) {
        (Some(name), _) => name.as_str(),
        (None, Some(below)) => below,
        (None, None) => return "redirected to the path with a slash at its end".to_owned(),
    };
    let place =
        if single.is_some() { Place::of(below, true) } else { Place::of(below, config.dotfiles) };
    let Some(place) = place else {
        return "no file has such a name, or it begins with a dot: 404".to_owned();
    };
    let path = root.join(&place.path);
    let links =
        if config.symlinks { "links inside the root are followed" } else { "links are not" };
    if !place.is_directory {
        return format!("a file: {}, beneath {}; {links}", path.display(), root.display());
    }
    let names = config.index.join(", ");
    let else_ = if config.listing { "a listing" } else { "404" };
    format!("a directory: {}/, answered with its {names}, else {else_}; {links}", path.display())
}

thread_local! {
    static STORES: RefCell<Vec<Option<Rc<Store>>>> = const { RefCell::new(Vec::new()) };
}

impl Files {
    /// The files of a route. The root is opened when the first of them is asked for.
    pub(crate) fn new(config: &config::Files) -> Files {
        static NUMBERS: AtomicUsize = AtomicUsize::new(0);
        let (root, single) = config.place();
        // As it would stand in a request's path.
        let single = single.map(|name| name.replace('%', "%25"));
        let mut rules = Rules::of(config);
        rules.dotfiles |= single.is_some();
        Files {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            root,
            single,
            symlinks: config.symlinks,
            rules: Arc::new(rules),
            fresh: config.fresh,
            files_max: config.open_files as usize,
            memory_max: usize::try_from(config.memory).unwrap_or(usize::MAX),
            told: Mutex::new(None),
        }
    }

    /// What answers for the route.
    pub(crate) fn handler(self) -> Handler {
        let files = Arc::new(self);
        Handler::new(move |request: Request| {
            let files = Arc::clone(&files);
            async move { files.answer(&request).await }
        })
    }

    async fn answer(&self, request: &Request) -> Response {
        let head = request.head();
        let below = match &self.single {
            Some(name) => name,
            // The prefix without its slash.
            None => match head.raw_param(0) {
                Some(below) => below,
                None => return reply::slash(&head),
            },
        };
        let store = match self.store() {
            Ok(store) => store,
            Err(error) => return self.failure(below, &error),
        };
        if let Some(cached) = store.at_hand(below)
            && let Some(response) = reply::file(&head, &cached)
        {
            return response;
        }
        for _ in 0..TRIES {
            match store.find(below).await {
                Ok(Answer::File(cached)) => match self.send(&store, below, &head, &cached) {
                    Some(response) => return response,
                    None => continue,
                },
                Ok(Answer::Slash) => return reply::slash(&head),
                Ok(Answer::Listing(place)) => {
                    return listing::page(&store.tree, &store.rules, place, head.path()).await;
                }
                Err(error) => return self.failure(below, &error),
            }
        }
        self.failure(below, &io::ErrorKind::ResourceBusy.into())
    }

    /// The reply of a file that cannot be sent. What is our side's fault is told, now and then.
    fn failure(&self, below: &str, error: &io::Error) -> Response {
        let response = reply::failure(error);
        if response.status() != 404 {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_none_or(|told| told.elapsed() > TOLD_EVERY) {
                *told = Some(Instant::now());
                let root = self.root.display();
                tracing::warn!(
                    "a file beneath {root} cannot be served: {below:?}: {error}; workers must be \
                     able to read it (`user`)"
                );
            }
        }
        response
    }

    fn send(
        &self,
        store: &Store,
        below: &str,
        head: &ember_http::Request<'_>,
        cached: &Rc<Cached>,
    ) -> Option<Response> {
        let response = reply::file(head, cached);
        if response.is_none() {
            store.forget(below);
        }
        response
    }

    /// This thread's open files.
    fn store(&self) -> io::Result<Rc<Store>> {
        STORES.with_borrow_mut(|stores| {
            if stores.len() <= self.number {
                stores.resize_with(self.number + 1, || None);
            }
            if let Some(store) = &stores[self.number] {
                return Ok(Rc::clone(store));
            }
            let tree = Tree::open(&self.root, self.symlinks)?;
            let rules = Arc::clone(&self.rules);
            let store = Store::new(tree, rules, self.fresh, self.files_max, self.memory_max);
            let store = Rc::new(store);
            stores[self.number] = Some(Rc::clone(&store));
            Ok(store)
        })
    }
}
