//! How a speed is shown: value, spread, count, target, and each peer with the ratio to it. It must
//! never print a value alone.

use crate::measure::Spread;

/// What a speed should reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Times and sizes.
    AtMost(f64),
    /// Rates.
    AtLeast(f64),
}

impl Target {
    /// Is it reached?
    pub fn reached(self, value: f64) -> bool {
        match self {
            Target::AtMost(limit) => value <= limit,
            Target::AtLeast(limit) => value >= limit,
        }
    }
}

/// One measured thing.
#[derive(Clone, Debug)]
pub struct Line {
    /// What was measured.
    pub name: String,
    /// What was found.
    pub spread: Spread,
}

impl Line {
    /// Names what was found.
    pub fn new(name: impl Into<String>, spread: Spread) -> Line {
        Line { name: name.into(), spread }
    }
}

/// Four digits at most, enough to compare, not more than is known.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn line(line: &Line, unit: &str) -> String {
    let Spread { median, min, max, count } = line.spread;
    let value = format!("{} {unit}", number(median));
    let spread = format!("{} to {}, n = {count}", number(min), number(max));
    format!("  {:<44} {value:>16}   ({spread})", line.name)
}

/// A bench's lines: a title, what is measured, then its peers, each with "measured / peer".
pub fn render(
    title: &str,
    unit: &str,
    ours: &Line,
    target: Option<Target>,
    peers: &[Line],
) -> String {
    let mut text = format!("{title}\n{}", line(ours, unit));
    if let Some(target) = target {
        let word = if target.reached(ours.spread.median) { "reached" } else { "MISSED" };
        let (relation, limit) = match target {
            Target::AtMost(limit) => ("at most", limit),
            Target::AtLeast(limit) => ("at least", limit),
        };
        text += &format!("   target {relation} {limit} {unit}: {word}");
    }
    for peer in peers {
        let ratio = ours.spread.median / peer.spread.median;
        text += &format!("\n{}   {}x of it", line(peer, unit), number(ratio));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_shown_with_its_target_and_peers() {
        let ours = Line::new("select", Spread::of(&[0.4, 0.3, 0.6]));
        let peer = Line::new("SELECT 1", Spread::of(&[0.2]));
        let text = render("point", "ms", &ours, Some(Target::AtMost(0.5)), &[peer]);
        let squeezed: Vec<String> =
            text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            squeezed,
            [
                "point",
                "select 0.4000 ms (0.3000 to 0.6000, n = 3) target at most 0.5 ms: reached",
                "SELECT 1 0.2000 ms (0.2000 to 0.2000, n = 1) 2.00x of it",
            ]
        );
        let text = render("load", "rows/s", &ours, Some(Target::AtLeast(0.5)), &[]);
        assert!(text.ends_with("target at least 0.5 rows/s: MISSED"), "{text}");
    }
}
