//! The one thread that starts this program's processes, reads what they send, and collects them.
//!
//! It is started with the first process and lives as long as the program: the parent-death signal of a process fires when the *thread* that has
//! started it ends. What processes send is read whether or not somebody waits for it, so no process ever waits for its parent's `join`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread::ThreadId;

use super::ProcessError;
use super::child::{Child, Plan};
use super::nursling::Nursling;
use crate::backend::process::exit::{LAST_ROUNDS, OomKills};
use crate::backend::process::link::Reading;
use crate::backend::process::spawner::Recipe;
use crate::backend::process::tagging::Tagger;
use crate::output::Output;
use crate::primitives::unpoisoned;
use crate::sys::clock;
use crate::sys::poll::{Doorbell, Watch};
use crate::sys::signal::GroupSignal;
use crate::transport::replies::Round;

static NURSERY: OnceLock<Arc<Nursery>> = OnceLock::new();

/// Tokens: the doorbell, and per process its replies and its end.
const BELL: u64 = u64::MAX;

fn reply_token(key: u64) -> u64 {
    key << 1
}

fn exit_token(key: u64) -> u64 {
    key << 1 | 1
}

/// What the thread and everybody else share.
#[derive(Debug)]
pub(super) struct Nursery {
    bell: Arc<Doorbell>,
    orders: Mutex<VecDeque<Order>>,
    live: Mutex<BTreeMap<u64, Arc<Child>>>,
    thread: OnceLock<ThreadId>,
    /// The thread can't go on.
    broken: AtomicBool,
    owner: u32,
}

type Refusal = (ProcessError, Box<Plan>);

/// A process is to be started.
#[derive(Debug)]
struct Order {
    child: Arc<Child>,
    recipe: Recipe,
    plan: Box<Plan>,
    input: Arc<Vec<u8>>,
    answer: mpsc::SyncSender<Result<(), Refusal>>,
}

impl Nursery {
    /// The nursery of this program, which is made if there is none.
    pub(super) fn get() -> Result<&'static Nursery, ProcessError> {
        static MAKING: Mutex<()> = Mutex::new(());
        let nursery = match NURSERY.get() {
            Some(nursery) => nursery,
            None => {
                let _making = unpoisoned(MAKING.lock());
                match NURSERY.get() {
                    Some(nursery) => nursery,
                    None => {
                        let nursery = Nursery::open()?;
                        NURSERY.get_or_init(|| nursery)
                    }
                }
            }
        };
        if nursery.owner != std::process::id() {
            return Err(ProcessError::ForkedCopy { owner: nursery.owner });
        }
        if nursery.broken.load(Ordering::SeqCst) {
            let error = "its own thread could not go on".to_owned();
            return Err(ProcessError::Os { what: "cannot look after processes", error });
        }
        Ok(nursery)
    }

    /// The processes that live, the oldest first.
    pub(super) fn live() -> Vec<Arc<Child>> {
        match NURSERY.get() {
            Some(nursery) if nursery.owner == std::process::id() => {
                unpoisoned(nursery.live.lock()).values().cloned().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether this is the nursery's thread, which runs wakers.
    pub(super) fn is_this_thread() -> bool {
        let current = std::thread::current().id();
        NURSERY.get().is_some_and(|nursery| nursery.thread.get() == Some(&current))
    }

    fn open() -> Result<Arc<Nursery>, ProcessError> {
        let watch = Watch::new().map_err(ProcessError::os("cannot create an epoll instance"))?;
        let bell = Doorbell::new().map_err(ProcessError::os("cannot create an eventfd"))?;
        watch.add(bell.as_fd(), BELL).map_err(ProcessError::os("cannot watch an eventfd"))?;
        let nursery = Arc::new(Nursery {
            bell: Arc::new(bell),
            orders: Mutex::default(),
            live: Mutex::default(),
            thread: OnceLock::new(),
            broken: AtomicBool::new(false),
            owner: std::process::id(),
        });
        let room = Room {
            nursery: Arc::clone(&nursery),
            watch,
            nurslings: HashMap::new(),
            next_key: 0,
            unread: Vec::new(),
            buffer: Vec::new(),
            tagger: None,
            kills: OomKills::default(),
        };
        let thread = std::thread::Builder::new()
            .name("pool-processes".to_owned())
            .spawn(move || room.run())
            .map_err(ProcessError::os("cannot start a thread"))?;
        // set before any process exists, so before a user's waker can run there
        let _ = nursery.thread.set(thread.thread().id());
        Ok(nursery)
    }

    /// Has a process started, and waits until it is.
    pub(super) fn start(
        &self,
        child: &Arc<Child>,
        recipe: Recipe,
        plan: Box<Plan>,
        input: Arc<Vec<u8>>,
    ) -> Result<(), Refusal> {
        if Nursery::is_this_thread() {
            return Err((ProcessError::WouldDeadlock, plan));
        }
        let (answer, answered) = mpsc::sync_channel(1);
        let order = Order { child: Arc::clone(child), recipe, plan, input, answer };
        let mut orders = unpoisoned(self.orders.lock());
        if !self.broken.load(Ordering::SeqCst) {
            orders.push_back(order);
        }
        drop(orders);
        self.bell.ring();
        match answered.recv() {
            Ok(answer) => answer,
            // it has panicked, or could not go on
            Err(_) => Err((broken(), Box::new(Plan::lost(broken())))),
        }
    }
}

fn broken() -> ProcessError {
    ProcessError::StartFailed("the thread that looks after processes has failed".to_owned())
}

/// What only the thread has.
struct Room {
    nursery: Arc<Nursery>,
    watch: Watch,
    nurslings: HashMap<u64, Nursling>,
    next_key: u64,
    /// Those that had more to say than one round takes.
    unread: Vec<u64>,
    buffer: Vec<u8>,
    /// Made for the first process whose output is tagged.
    tagger: Option<Tagger>,
    kills: OomKills,
}

impl Room {
    fn run(mut self) {
        let mut tokens = Vec::new();
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.turn(&mut tokens))) {
                Ok(Ok(())) => {}
                // a mistake here must not leave anybody waiting
                Err(_) => self.abandon("the thread that looks after processes has panicked"),
                Ok(Err(error)) => {
                    let mut orders = unpoisoned(self.nursery.orders.lock());
                    self.nursery.broken.store(true, Ordering::SeqCst);
                    orders.clear();
                    drop(orders);
                    return self.abandon(&format!("waiting for processes failed: {error}"));
                }
            }
        }
    }

    /// Waits for something to happen, and acts on it.
    fn turn(&mut self, tokens: &mut Vec<u64>) -> std::io::Result<()> {
        self.nursery.bell.arm();
        // one at a time: those that live are heard in between
        let order = unpoisoned(self.nursery.orders.lock()).pop_front();
        let timeout = match &order {
            None if self.unread.is_empty() => self.sleep(),
            _ => Some(0),
        };
        tokens.clear();
        self.watch.wait(timeout, tokens)?;
        self.nursery.bell.disarm(tokens.contains(&BELL));
        for key in std::mem::take(&mut self.unread) {
            self.on_readable(key);
        }
        // replies first: an exit is judged last
        tokens.sort_unstable_by_key(|token| token & 1);
        for &token in tokens.iter().filter(|&&token| token != BELL) {
            if token & 1 == 0 {
                self.on_readable(token >> 1);
            } else {
                self.on_exit(token >> 1);
            }
        }
        let now = clock::now_ns();
        for nursling in self.nurslings.values_mut().filter(|n| n.greets_until <= now) {
            nursling.give_up();
        }
        if let Some(order) = order {
            self.on_order(order);
        }
        Ok(())
    }

    /// How long to wait at most.
    fn sleep(&self) -> Option<u64> {
        let due = self.nurslings.values().map(|nursling| nursling.greets_until).min()?;
        (due != u64::MAX).then(|| due.saturating_sub(clock::now_ns()))
    }

    fn on_order(&mut self, order: Order) {
        let Order { child, recipe, plan, input, answer } = order;
        let timeout = plan.settings.start_timeout;
        if [recipe.stdout, recipe.stderr].contains(&Output::Tagged) && self.tagger.is_none() {
            // without it, what is printed is lost
            self.tagger = Tagger::start("processes").ok();
        }
        let task = (plan.callee, input, plan.attachments.clone());
        let start = || Nursling::start(child, &recipe, timeout, task, self.tagger.as_ref());
        let started = catch_unwind(AssertUnwindSafe(start))
            .unwrap_or_else(|_| Err(std::io::Error::other("starting it panicked")))
            .and_then(|nursling| self.adopt(nursling));
        let answered =
            started.map_err(|error| (ProcessError::os("cannot start the process")(error), plan));
        // the caller waits for it
        let _ = answer.send(answered);
    }

    fn adopt(&mut self, mut nursling: Nursling) -> std::io::Result<()> {
        let key = self.next_key;
        self.next_key += 1;
        let link = &mut nursling.link;
        let watched = self
            .watch
            .add(link.stream.as_fd(), reply_token(key))
            .and_then(|()| self.watch.add(link.pidfd.as_fd(), exit_token(key)));
        if let Err(error) = watched {
            // its end could not be seen: it is ended here
            nursling.discard();
            return Err(error);
        }
        self.kills.on_start(link.home.as_ref(), clock::now_ns());
        nursling.child.set_alive(link.pid);
        unpoisoned(self.nursery.live.lock()).insert(key, Arc::clone(&nursling.child));
        self.nurslings.insert(key, nursling);
        Ok(())
    }

    fn on_readable(&mut self, key: u64) {
        let Some(nursling) = self.nurslings.get_mut(&key) else { return };
        match nursling.read(&mut self.buffer) {
            Round::Drained => {}
            // the rest may ring no bell
            Round::Budget => self.unread.push(key),
            Round::End if nursling.link.reading == Reading::Watched => {
                // Its function may have closed what it found open, and go on all the same: what counts is the end of the process.
                let _ = self.watch.remove(nursling.link.stream.as_fd());
                nursling.link.reading = Reading::Ended;
            }
            Round::End => {}
        }
    }

    /// The process has ended: what it has sent is taken, and only then is judged what its end means.
    fn on_exit(&mut self, key: u64) {
        let Some(nursling) = self.nurslings.get_mut(&key) else { return };
        if nursling.child.daemon {
            // what it has started ends with it; its number is its own until it is reaped below
            nursling.link.signal(GroupSignal::Kill);
        }
        for _ in 0..LAST_ROUNDS {
            if nursling.read(&mut self.buffer) != Round::Budget {
                break;
            }
        }
        let Some(outcome) = nursling.end(&mut self.kills) else { return };
        let Some(nursling) = self.nurslings.remove(&key) else { return };
        // failing to unwatch what is about to be closed changes nothing
        let _ = self.watch.remove(nursling.link.pidfd.as_fd());
        if nursling.link.reading == Reading::Watched {
            let _ = self.watch.remove(nursling.link.stream.as_fd());
        }
        let child = Arc::clone(&nursling.child);
        if let (Some(tagger), Some(tag)) = (&self.tagger, nursling.link.tag) {
            // who joins it finds its output written, and may end the program
            let _ = child.written.set(tagger.finish_one(tag));
        }
        // its descriptors are closed before anybody is told of its end
        drop(nursling);
        let settled = child.slot.settle(outcome);
        debug_assert!(settled.is_ok(), "a process ends once");
        // last, so that whoever asks for those that live either finds it there, and waits for the lines above, or nothing of it is left
        unpoisoned(self.nursery.live.lock()).remove(&key);
    }

    fn abandon(&mut self, reason: &str) {
        unpoisoned(self.nursery.live.lock()).clear();
        for (_, nursling) in self.nurslings.drain() {
            nursling.abandon(reason);
        }
    }
}
