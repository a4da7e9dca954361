use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::time::{sleep, timeout, yield_now};

/// Polls until nothing is ready.
pub(crate) fn run(runtime: &Runtime) -> Vec<TaskId> {
    let mut host = Vec::new();
    while runtime.gather() > 0 {
        host.extend(runtime.run_one());
    }
    host
}

fn runtime() -> (Runtime, Arc<AtomicUsize>) {
    let wakes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&wakes);
    (Runtime::new(move || _ = counted.fetch_add(1, Ordering::SeqCst)), wakes)
}

#[test]
fn tasks_run_join_and_abort() {
    let (runtime, _) = runtime();
    let _entered = runtime.enter();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let mut handles = Vec::new();
    for n in 0..3 {
        let seen = Rc::clone(&seen);
        handles.push(spawn(async move {
            yield_now().await;
            seen.borrow_mut().push(n);
            n * 10
        }));
    }
    let aborted = spawn(std::future::pending::<()>());
    let panicking = spawn(async { panic!("asked for") });
    run(&runtime);
    assert_eq!(*seen.borrow(), [0, 1, 2]);
    assert_eq!(runtime.spawned(), 1);
    aborted.abort();
    run(&runtime);
    assert_eq!(runtime.spawned(), 0);
    let joined = Rc::new(Cell::new(false));
    let done = Rc::clone(&joined);
    let joiner = spawn(async move {
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.await, Ok(n * 10));
        }
        assert_eq!(aborted.await, Err(Aborted));
        assert_eq!(panicking.await, Err::<(), _>(Aborted));
        done.set(true);
    });
    run(&runtime);
    assert!(joined.get() && joiner.is_finished());
}

#[test]
fn timers_come_up_in_order_and_end_work() {
    let (runtime, _) = runtime();
    let _entered = runtime.enter();
    let seen = Rc::new(RefCell::new(Vec::new()));
    for wait_ms in [30, 10, 20] {
        let seen = Rc::clone(&seen);
        drop(spawn(async move {
            sleep(Duration::from_millis(wait_ms)).await;
            seen.borrow_mut().push(wait_ms);
        }));
    }
    let late = spawn(timeout(Duration::from_millis(15), std::future::pending::<()>()));
    run(&runtime);
    assert!(runtime.next_deadline_ms().is_some_and(|at| at <= 11));
    for now_ms in 0..40 {
        runtime.set_clock(now_ms);
        run(&runtime);
    }
    assert_eq!(*seen.borrow(), [10, 20, 30]);
    assert!(late.is_finished());
    assert_eq!(runtime.next_deadline_ms(), None, "a timer that is dropped is gone");
}

#[test]
fn other_threads_wake_with_one_call_a_turn() {
    let (runtime, wakes) = runtime();
    let _entered = runtime.enter();
    let tasks: Vec<TaskId> = (0..4).map(|_| runtime.reserve()).collect();
    let wakers: Vec<Waker> = tasks.iter().map(|task| runtime.waker(*task)).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for waker in wakers.iter().chain(&wakers) {
                waker.wake_by_ref();
            }
        });
    });
    assert_eq!(wakes.load(Ordering::SeqCst), 1);
    let mut woken = run(&runtime);
    woken.sort_by_key(|task| task.index());
    assert_eq!(woken, tasks);
    std::thread::scope(|scope| _ = scope.spawn(|| wakers[0].wake_by_ref()));
    assert_eq!(wakes.load(Ordering::SeqCst), 2);
    wakers[1].wake_by_ref();
    assert_eq!(wakes.load(Ordering::SeqCst), 2, "its own thread needs no call");
    assert_eq!(run(&runtime).len(), 2);
}
