//! The learner as a whole, over a column store in memory whose crashes are exact.

mod apply;
mod crash;
mod fixture;
mod live;
mod phases;
mod regions;
mod trace;
mod view;
