//! Executable specifications: small models of the protocols, explored state by state. They are
//! read beside the code they specify, and must never import it: a model that shares code with
//! what it checks shares its mistakes.
//!
//! ```text
//!   Model { init, actions, next, invariants }  ──► explore(): every reachable state, breadth first
//!                                                    │
//!                                  Ok(states)  ◄─────┴────►  Violation { invariant, shortest trace }
//! ```
//!
//! Each model takes a `Bug`: the mutations that history (and `specs/README.md`) warns of. A test
//! shows that the right model holds and that each bug is found: a specification that cannot fail
//! proves nothing.
//!
//! Reading order: `explore`, `oracle`, `percolator`. More protocols are specified in TLA+, in the
//! folder `tla`; `README.md` has what each invariant's name stands for, and what checks it.

pub mod explore;
pub mod oracle;
pub mod percolator;

pub use explore::{Model, Violation, explore};
