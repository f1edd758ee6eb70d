//! Breadth-first exploration of a model: the first violation found has a shortest trace. It must
//! never stop silently before every state was seen.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Debug, Display};
use std::hash::Hash;

/// A protocol as states and actions.
pub trait Model {
    /// Everything that matters; small.
    type State: Clone + Eq + Hash + Debug;
    /// One step of somebody.
    type Action: Clone + Debug;

    /// Where it begins.
    fn init(&self) -> Vec<Self::State>;
    /// What can happen next.
    fn actions(&self, state: &Self::State) -> Vec<Self::Action>;
    /// What it leads to.
    fn next(&self, state: &Self::State, action: &Self::Action) -> Self::State;
    /// What must hold in every state.
    #[allow(clippy::type_complexity)]
    fn invariants(&self) -> Vec<(&'static str, fn(&Self::State) -> bool)>;
}

/// A reachable state that must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which invariant does not hold.
    pub invariant: &'static str,
    /// The actions that lead there, a shortest list.
    pub trace: Vec<String>,
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not hold after:", self.invariant)?;
        self.trace.iter().try_for_each(|step| write!(f, "\n  {step}"))
    }
}

/// Sees every reachable state; returns how many there are.
///
/// # Panics
/// If there are more than `states_max`: the model is too large to be checked, which is not a pass.
pub fn explore<M: Model>(model: &M, states_max: usize) -> Result<usize, Violation> {
    let mut states: Vec<M::State> = Vec::new();
    let mut parents: Vec<Option<(usize, M::Action)>> = Vec::new();
    let mut seen: HashMap<M::State, usize> = HashMap::new();
    let mut queue = VecDeque::new();
    let invariants = model.invariants();
    let mut found = model.init().into_iter().map(|s| (s, None)).collect::<Vec<_>>();
    loop {
        for (state, parent) in found.drain(..) {
            if seen.contains_key(&state) {
                continue;
            }
            let number = states.len();
            assert!(number < states_max, "more than {states_max} states");
            seen.insert(state.clone(), number);
            parents.push(parent);
            if let Some((invariant, _)) = invariants.iter().find(|(_, holds)| !holds(&state)) {
                return Err(Violation { invariant, trace: trace::<M>(&parents, number) });
            }
            states.push(state);
            queue.push_back(number);
        }
        let Some(number) = queue.pop_front() else { return Ok(states.len()) };
        for action in model.actions(&states[number]) {
            let next = model.next(&states[number], &action);
            found.push((next, Some((number, action))));
        }
    }
}

fn trace<M: Model>(parents: &[Option<(usize, M::Action)>], last: usize) -> Vec<String> {
    let mut steps = Vec::new();
    let mut at = last;
    while let Some((parent, action)) = &parents[at] {
        steps.push(format!("{action:?}"));
        at = *parent;
    }
    steps.reverse();
    steps
}
