use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use super::*;

const LIMITS: StoreLimits =
    StoreLimits { entries_max: 1000, bytes_max: 1 << 20, value_bytes_max: 1 << 10 };
const TTL: Ttl = Ttl { fresh_ms: 100, stale_ms: 50, error_ms: 200 };

fn store() -> Arc<Store<u32>> {
    Store::new(LIMITS)
}

fn lead(store: &Arc<Store<u32>>, key: &[u8], now_ms: u64) -> Lead<u32> {
    match store.look_up(key, now_ms) {
        Found::Lead(lead) => lead,
        other => panic!("{other:?}"),
    }
}

fn wait(store: &Arc<Store<u32>>, key: &[u8], now_ms: u64) -> Wait<u32> {
    match store.look_up(key, now_ms) {
        Found::Wait(wait) => wait,
        other => panic!("{other:?}"),
    }
}

fn filled(store: &Arc<Store<u32>>, key: &[u8], value: u32, now_ms: u64) {
    lead(store, key, now_ms).store(Arc::new(value), 4, TTL, now_ms);
}

/// Blocks this thread until the future is ready.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_value_is_fresh_then_stale_then_for_errors_only() {
    let store = store();
    filled(&store, b"k", 7, 1000);
    let Found::Fresh(hit) = store.look_up(b"k", 1099) else { panic!("not fresh") };
    assert_eq!((*hit.value, hit.age_ms, hit.fresh_ms), (7, 99, 1));
    let Found::Stale { hit, refresh: Some(refresh) } = store.look_up(b"k", 1100) else {
        panic!("not stale")
    };
    assert_eq!((*hit.value, hit.fresh_ms), (7, 0));
    // Somebody is at it: the next one need not.
    assert!(matches!(store.look_up(b"k", 1149), Found::Stale { refresh: None, .. }));
    // Past that time one waits for whoever is at it.
    assert!(matches!(store.look_up(b"k", 1150), Found::Wait(_)));
    drop(refresh);
    let again = lead(&store, b"k", 1299);
    assert!(again.previous().is_some_and(|previous| previous.usable_on_error));
    drop(again);
    let late = lead(&store, b"k", 1300);
    assert!(late.previous().is_some_and(|previous| !previous.usable_on_error));
    late.store(Arc::new(8), 4, TTL, 1300);
    assert!(matches!(store.look_up(b"k", 1301), Found::Fresh(Hit { value, .. }) if *value == 8));
}

#[test]
fn a_dropped_lead_is_passed_on() {
    let store = store();
    let first = lead(&store, b"k", 0);
    let second = wait(&store, b"k", 0);
    drop(first);
    assert!(matches!(block_on(second), Landing::Gone));
    let next = lead(&store, b"k", 0);
    let third = wait(&store, b"k", 0);
    next.share(Arc::new(3));
    assert!(matches!(block_on(third), Landing::Value(value) if *value == 3));
    // Shared is not kept.
    drop(lead(&store, b"k", 0));
}

#[test]
fn what_is_not_cacheable_does_not_queue() {
    let store = store();
    let first = lead(&store, b"k", 0);
    let second = wait(&store, b"k", 0);
    first.pass(100, 0);
    assert!(matches!(block_on(second), Landing::Pass));
    assert!(matches!(store.look_up(b"k", 99), Found::Pass));
    drop(lead(&store, b"k", 100));
}

#[test]
fn what_is_forgotten_during_its_fetch_is_not_kept() {
    let store = store();
    let forgetting: [fn(&Store<u32>); 2] = [|store| assert!(!store.remove(b"k")), Store::clear];
    for forget in forgetting {
        let first = lead(&store, b"k", 0);
        let second = wait(&store, b"k", 0);
        forget(&store);
        // Whoever asks from now on may not have what was fetched before.
        let third = lead(&store, b"k", 0);
        first.store(Arc::new(1), 4, TTL, 0);
        assert!(matches!(block_on(second), Landing::Value(value) if *value == 1));
        assert!(matches!(store.look_up(b"k", 0), Found::Wait(_)));
        third.store(Arc::new(2), 4, TTL, 0);
        assert!(store.peek(b"k", 0).is_some_and(|hit| *hit.value == 2));
        assert!(store.remove(b"k"));
    }
}

#[test]
fn prefixes_are_forgotten() {
    let store = store();
    for key in ["a/1", "a/2", "b/1"] {
        filled(&store, key.as_bytes(), 1, 0);
    }
    assert_eq!(store.remove_prefix(b"a/"), 2);
    assert_eq!(store.len(), 1);
    assert!(store.peek(b"b/1", 0).is_some());
    store.clear();
    assert!(store.is_empty());
    assert_eq!(store.bytes(), 0);
}

#[test]
fn the_least_recently_used_goes_first() {
    let store: Arc<Store<u32>> =
        Store::new(StoreLimits { entries_max: 3, bytes_max: 1 << 20, value_bytes_max: 100 });
    for key in [b"a", b"b", b"c"] {
        filled(&store, key, 1, 0);
    }
    assert!(store.peek(b"a", 0).is_some());
    filled(&store, b"d", 1, 0);
    let kept = [b"a", b"b", b"c", b"d"].map(|key| store.peek(key, 0).is_some());
    assert_eq!(kept, [true, false, true, true]);
}

#[test]
fn bytes_are_bounded() {
    let limits = StoreLimits { entries_max: 1000, bytes_max: 10_000, value_bytes_max: 1000 };
    let store: Arc<Store<u32>> = Store::new(limits);
    for at in 0..100u32 {
        store.insert(&at.to_be_bytes(), Arc::new(at), 1000, TTL, 0);
        assert!(store.bytes() <= 10_000);
    }
    assert!((5..10).contains(&store.len()), "{}", store.len());
    lead(&store, b"large", 0).store(Arc::new(1), 1001, TTL, 0);
    assert!(store.peek(b"large", 0).is_none());
}

#[test]
fn one_of_many_threads_fetches() {
    const THREADS: usize = 8;
    let (store, fetched) = (store(), AtomicUsize::new(0));
    let barrier = Barrier::new(THREADS);
    let look = |now_ms: u64| loop {
        match store.look_up(b"k", now_ms) {
            Found::Fresh(hit) => return *hit.value,
            Found::Lead(lead) => {
                fetched.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
                lead.store(Arc::new(5), 4, TTL, now_ms);
            }
            Found::Wait(wait) => {
                if let Landing::Value(value) = block_on(wait) {
                    return *value;
                }
            }
            other => panic!("{other:?}"),
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for round in 0..100 {
                    barrier.wait();
                    assert_eq!(look(round * 1000), 5);
                }
            });
        }
    });
    assert_eq!(fetched.into_inner(), 100);
}
