//! Simulated threads and the order in which they run: one at a time, each on a stack of its own,
//! by a heap of (time, order) and one seeded source. It must never let anything but these decide
//! who runs next.
//!
//! ```text
//!   heap ─► Resume(task) ─► its stack, until it waits ─► heap (its time is over)
//!     ▲  └► Call(body)       (on the kernel's own stack: must not wait)
//!     └──── wake(place): who waits there, a little later
//! ```
//! A process is a group of tasks with clocks of their own; it may stand still as a whole.

use crate::chance::{Chance, hash_bytes, mix};
use crate::places::Places;
use damask_env::Clock;
use damask_env::simulation::{Body, Entered, Scheduler, enter};
use generator::{Generator, Gn};
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

/// Words of a task's stack; pages that are not touched cost nothing.
const STACK_WORDS: usize = 128 << 10;
/// Events below which none is looked at before its time.
const HEAP_MIN: usize = 256;
/// Notes kept for the story of a failure.
const NOTES: usize = 160;
/// Wall clocks begin about here: milliseconds since 1970.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// A process: tasks with the same clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(usize);

/// Microseconds of simulated time.
pub type Micros = u64;

struct Process {
    /// Monotonic clock at time 0.
    offset: Micros,
    /// Its speed: parts in a million.
    rate: u64,
    /// Milliseconds by which the wall clock is wrong.
    jump_ms: i64,
    /// It stands still until then.
    paused_until: Micros,
    /// Tasks with this name do.
    stalled: Option<(&'static str, Micros)>,
}

#[derive(Default)]
struct Slot {
    name: String,
    hash: u64,
    group: usize,
    body: Option<Body>,
    coroutine: Option<Generator<'static, (), ()>>,
    /// The number of its wait, while it waits.
    wait: Option<u64>,
    woken: bool,
    finished: bool,
}

enum What {
    Resume(usize, u64),
    Call(Box<dyn FnOnce()>),
}

struct Event {
    at: Micros,
    order: u64,
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Event) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Something that happened, in few words.
#[derive(Clone, Copy)]
struct Note {
    at: Micros,
    what: &'static str,
    who: u64,
    a: u64,
    b: u64,
}

struct State {
    now: Micros,
    order: u64,
    heap: BinaryHeap<Reverse<Event>>,
    /// So long, it is rid of the waits that are over.
    heap_max: usize,
    slots: Vec<Slot>,
    free: Vec<usize>,
    idle: Vec<Generator<'static, (), ()>>,
    processes: Vec<Process>,
    current: Option<usize>,
    places: Places,
    chance: Chance,
    events: u64,
    tasks: usize,
    trace: u64,
    notes: VecDeque<Note>,
    /// How often a woken thread runs late, and by how much at most.
    late: (u64, Micros),
}

/// Runs the tasks of one simulation.
pub struct Kernel {
    state: RefCell<State>,
    next_place: Cell<u64>,
}

thread_local! {
    static KERNEL: RefCell<Option<Rc<Kernel>>> = const { RefCell::new(None) };
    /// What a coroutine that begins, or goes on with another body, is to do.
    static NEXT_BODY: RefCell<Option<Body>> = const { RefCell::new(None) };
}

/// The kernel of this thread's simulation.
///
/// # Panics
/// Outside of one.
pub fn kernel() -> Rc<Kernel> {
    try_kernel().expect("inside of a simulation")
}

fn try_kernel() -> Option<Rc<Kernel>> {
    KERNEL.with(|kernel| kernel.borrow().clone())
}

/// While it lives, this thread runs one simulation.
pub struct Running {
    _entered: Entered,
}

impl Drop for Running {
    fn drop(&mut self) {
        KERNEL.with(|kernel| kernel.borrow_mut().take());
    }
}

impl Kernel {
    /// A kernel for this thread.
    pub fn start(seed: u64) -> (Rc<Kernel>, Running) {
        let state = State {
            now: 0,
            order: 0,
            heap: BinaryHeap::new(),
            heap_max: HEAP_MIN,
            slots: Vec::new(),
            free: Vec::new(),
            idle: Vec::new(),
            processes: Vec::new(),
            current: None,
            places: Places::default(),
            chance: Chance::new(seed, 1),
            events: 0,
            tasks: 0,
            trace: mix(seed),
            notes: VecDeque::new(),
            late: (15, 1_500),
        };
        let kernel = Rc::new(Kernel { state: RefCell::new(state), next_place: Cell::new(1) });
        kernel.group(0, 1_000_000);
        KERNEL.with(|current| *current.borrow_mut() = Some(kernel.clone()));
        let running = Running { _entered: enter(kernel.clone()) };
        (kernel, running)
    }

    /// So many times in a thousand a thread that was woken runs by so much late, at most.
    pub fn be_late(&self, permille: u64, most: Micros) {
        self.state.borrow_mut().late = (permille, most);
    }

    /// A new process.
    pub fn group(&self, offset: Micros, rate: u64) -> Group {
        let (jump_ms, paused_until, stalled) = (0, 0, None);
        let process = Process { offset, rate, jump_ms, paused_until, stalled };
        let mut state = self.state.borrow_mut();
        state.processes.push(process);
        Group(state.processes.len() - 1)
    }

    /// Simulated time.
    pub fn time(&self) -> Micros {
        self.state.borrow().now
    }

    /// Things that happened.
    pub fn events(&self) -> u64 {
        self.state.borrow().events
    }

    /// Tasks that have not ended.
    pub fn tasks(&self) -> usize {
        self.state.borrow().tasks
    }

    /// Names of the tasks that have not ended.
    pub fn names(&self) -> Vec<String> {
        let state = self.state.borrow();
        let open = state.slots.iter().filter(|slot| !slot.name.is_empty());
        open.map(|slot| slot.name.clone()).collect()
    }

    /// A number from the simulation's own source.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut Chance) -> T) -> T {
        draw(&mut self.state.borrow_mut().chance)
    }

    /// Everything that happened, in order, as one number.
    pub fn trace(&self) -> u64 {
        self.state.borrow().trace
    }

    /// Notes what happened.
    pub fn note(&self, what: &'static str, who: u64, a: u64, b: u64) {
        let mut state = self.state.borrow_mut();
        let at = state.now;
        let fold = hash_bytes(what.as_bytes()) ^ mix(a) ^ mix(b).rotate_left(7) ^ who;
        state.trace = mix(state.trace ^ at ^ fold);
        if state.notes.len() == NOTES {
            state.notes.pop_front();
        }
        state.notes.push_back(Note { at, what, who, a, b });
    }

    /// The last things that were noted, for a person.
    pub fn story(&self) -> Vec<String> {
        let state = self.state.borrow();
        let told = |note: &Note| {
            let Note { at, what, who, a, b } = note;
            format!("{:>10.3} ms  {who:>4}  {what} {a} {b}", *at as f64 / 1000.0)
        };
        state.notes.iter().map(told).collect()
    }

    /// Calls a body at a later time; it must not wait.
    pub fn after(&self, time: Micros, body: impl FnOnce() + 'static) {
        self.state.borrow_mut().push(time, What::Call(Box::new(body)));
    }

    /// Starts a task of a process.
    pub fn spawn_in(&self, group: Group, name: &str, body: impl FnOnce() + Send + 'static) {
        self.start_task(group.0, name, Box::new(body));
    }

    fn start_task(&self, group: usize, name: &str, body: Body) {
        let mut state = self.state.borrow_mut();
        let at = state.free.pop().unwrap_or_else(|| {
            state.slots.push(Slot::default());
            state.slots.len() - 1
        });
        state.order += 1;
        let wait = state.order;
        state.slots[at] = Slot {
            name: name.to_owned(),
            hash: hash_bytes(name.as_bytes()),
            group,
            body: Some(body),
            wait: Some(wait),
            ..Slot::default()
        };
        state.tasks += 1;
        let delay = state.chance.between(1, 30);
        state.push(delay, What::Resume(at, wait));
    }

    /// Lets a process stand still.
    pub fn pause_group(&self, group: Group, time: Micros) {
        let mut state = self.state.borrow_mut();
        let until = state.now + time;
        let process = &mut state.processes[group.0];
        process.paused_until = process.paused_until.max(until);
    }

    /// Lets the tasks of a process that have this name stand still.
    pub fn stall(&self, group: Group, name: &'static str, time: Micros) {
        let mut state = self.state.borrow_mut();
        let until = state.now + time;
        state.processes[group.0].stalled = Some((name, until));
    }

    /// Nothing of this process stands still any more.
    pub fn wake_group(&self, group: Group) {
        let process = &mut self.state.borrow_mut().processes[group.0];
        (process.paused_until, process.stalled) = (0, None);
    }

    /// When the process goes on, if it stands still.
    pub fn paused_until(&self, group: Group) -> Option<Micros> {
        let state = self.state.borrow();
        Some(state.processes[group.0].paused_until).filter(|until| *until > state.now)
    }

    /// Sets a process's wall clock wrong.
    pub fn jump(&self, group: Group, ms: i64) {
        self.state.borrow_mut().processes[group.0].jump_ms = ms;
    }

    /// The process of the running task.
    pub fn here(&self) -> Group {
        Group(self.state.borrow().group_now())
    }

    /// The clocks of a process.
    pub fn clock(&self, group: Group) -> SimClock {
        SimClock(group)
    }

    /// Runs until a time, or until `done` holds after some event: then true.
    pub fn run_until(&self, end: Micros, mut done: impl FnMut() -> bool) -> bool {
        loop {
            let what = {
                let mut state = self.state.borrow_mut();
                match state.heap.peek() {
                    Some(Reverse(entry)) if entry.at < end => {}
                    _ => {
                        state.now = state.now.max(end);
                        return false;
                    }
                }
                let Some(Reverse(entry)) = state.heap.pop() else { return false };
                state.now = entry.at;
                entry.what
            };
            match what {
                What::Call(body) => {
                    self.state.borrow_mut().events += 1;
                    body();
                }
                What::Resume(at, wait) => {
                    if !self.resume(at, wait) {
                        continue;
                    }
                }
            }
            if done() {
                return true;
            }
        }
    }

    /// False: it is not its turn (any more).
    fn resume(&self, at: usize, wait: u64) -> bool {
        let mut coroutine = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let slot = &mut state.slots[at];
            if slot.wait != Some(wait) {
                return false;
            }
            let process = &state.processes[slot.group];
            let stalled = process.stalled.filter(|(name, _)| slot.name.starts_with(name));
            let until = process.paused_until.max(stalled.map_or(0, |(_, until)| until));
            if until > state.now {
                let delay = until - state.now;
                state.push(delay, What::Resume(at, wait));
                return false;
            }
            slot.wait = None;
            state.events += 1;
            state.trace = mix(state.trace ^ state.now ^ slot.hash);
            state.current = Some(at);
            match slot.body.take() {
                None => slot.coroutine.take().expect("it waits"),
                Some(body) => {
                    NEXT_BODY.with(|next| *next.borrow_mut() = Some(body));
                    state.idle.pop().unwrap_or_else(new_coroutine)
                }
            }
        };
        coroutine.resume();
        let mut state = self.state.borrow_mut();
        state.current = None;
        if state.slots[at].finished {
            state.slots[at] = Slot::default();
            state.free.push(at);
            state.tasks -= 1;
            state.idle.push(coroutine);
        } else {
            state.slots[at].coroutine = Some(coroutine);
        }
        true
    }

    fn finish_body(&self) {
        let mut state = self.state.borrow_mut();
        let at = state.current.expect("a task runs");
        state.slots[at].finished = true;
    }

    /// Ends the coroutines that have nothing to do. Those that wait are forgotten, with what is on
    /// their stacks: that is a failure, which was told before.
    pub fn end(&self) {
        let (idle, slots, heap) = {
            let mut state = self.state.borrow_mut();
            let idle = std::mem::take(&mut state.idle);
            (idle, std::mem::take(&mut state.slots), std::mem::take(&mut state.heap))
        };
        for mut coroutine in idle {
            coroutine.resume();
        }
        for slot in slots {
            std::mem::forget(slot.coroutine);
        }
        drop(heap);
    }
}

impl State {
    fn push(&mut self, delay: Micros, what: What) {
        if self.heap.len() >= self.heap_max {
            self.forget_ended_waits();
        }
        self.order += 1;
        let (at, order) = (self.now + delay, self.order);
        self.heap.push(Reverse(Event { at, order, what }));
    }

    /// Who was woken before his time leaves its end behind.
    fn forget_ended_waits(&mut self) {
        let slots = &self.slots;
        self.heap.retain(|Reverse(event)| match event.what {
            What::Resume(at, wait) => slots[at].wait == Some(wait),
            What::Call(_) => true,
        });
        self.heap_max = HEAP_MIN.max(2 * self.heap.len());
    }

    fn group_now(&self) -> usize {
        self.current.map_or(0, |at| self.slots[at].group)
    }

    fn local(&self, group: usize) -> Duration {
        let process = &self.processes[group];
        Duration::from_micros(process.offset + self.now * process.rate / 1_000_000)
    }
}

/// Runs one body after the other, for as long as there is one.
fn new_coroutine() -> Generator<'static, (), ()> {
    Gn::<()>::new_opt(STACK_WORDS, || {
        while let Some(body) = NEXT_BODY.with(|next| next.borrow_mut().take()) {
            // Whose panic it was is kept (see `panics`): the run ends with it, not the process.
            let _ = catch_unwind(AssertUnwindSafe(body));
            kernel().finish_body();
            leave_stack();
        }
    })
}

/// Back to whoever resumed this coroutine.
#[allow(deprecated)] // the other way needs a value handed down through everything that may wait
fn leave_stack() {
    generator::yield_with(());
}

impl Scheduler for Kernel {
    fn now(&self) -> Duration {
        let state = self.state.borrow();
        state.local(state.group_now())
    }

    fn spawn(&self, name: &str, body: Body) {
        let group = self.state.borrow().group_now();
        self.start_task(group, name, body);
    }

    fn place(&self) -> u64 {
        let place = self.next_place.get();
        self.next_place.set(place + 1);
        place
    }

    fn wait(&self, place: u64, at_most: Option<Duration>) -> bool {
        let (at, number) = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let at = state.current.expect("only a task may wait");
            state.order += 1;
            let number = state.order;
            let slot = &mut state.slots[at];
            (slot.wait, slot.woken) = (Some(number), false);
            let rate = state.processes[slot.group].rate;
            state.places.entry(place).or_default().push((at, number));
            if let Some(time) = at_most {
                let local = time.as_micros().min(1 << 50) as u64;
                let delay = (u128::from(local) * 1_000_000 / u128::from(rate)) as u64;
                state.push(delay.max(1), What::Resume(at, number));
            }
            (at, number)
        };
        leave_stack();
        let mut state = self.state.borrow_mut();
        let woken = state.slots[at].woken;
        if let Entry::Occupied(mut waiters) = state.places.entry(place) {
            if !woken {
                waiters.get_mut().remove((at, number));
            }
            if waiters.get().is_empty() {
                waiters.remove();
            }
        }
        woken
    }

    fn wake(&self, place: u64, all: bool) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(queue) = state.places.get_mut(&place) else { return };
        let mut woken = Vec::new();
        while let Some((at, number)) = queue.pop() {
            let slot = &mut state.slots[at];
            if slot.wait == Some(number) && !slot.woken {
                slot.woken = true;
                woken.push((at, number));
                if !all {
                    break;
                }
            }
        }
        for (at, number) in woken {
            // A thread runs soon after it was woken, and now and then much later.
            let (permille, most) = state.late;
            let late = state.chance.permille(permille);
            let delay = state.chance.between(1, if late { most } else { 25 });
            state.push(delay, What::Resume(at, number));
        }
    }
}

/// The clocks of a process; they stand still outside of a simulation.
#[derive(Clone, Copy, Debug)]
pub struct SimClock(Group);

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        let Some(kernel) = try_kernel() else { return EPOCH_MS };
        let state = kernel.state.borrow();
        let Process { rate, jump_ms, .. } = state.processes[self.0.0];
        let ms = state.now * rate / 1_000_000_000;
        (EPOCH_MS + ms).saturating_add_signed(jump_ms)
    }

    fn monotonic(&self) -> Duration {
        let Some(kernel) = try_kernel() else { return Duration::ZERO };
        kernel.state.borrow().local(self.0.0)
    }
}
