//! What a race found, as text and as one HTML page that needs nothing else. It must never show a
//! ratio without the times it comes from.

use super::lines::Bandwidth;
use super::{Cell, Report, Times, lsm_kind};
use std::fmt::Write;

/// The paper's Table 2: seconds of `count(id), count(k)` over 100 M rows, by transactions/s.
const PAPER: [(u32, f64, f64); 4] =
    [(150, 0.49, 1.01), (1300, 0.48, 0.97), (8000, 0.50, 0.94), (14_000, 0.45, 0.95)];
const PLOT_WIDTH: f64 = 640.0;
const PLOT_HEIGHT: f64 = 240.0;
const COLORS: [&str; 6] = ["#1668b8", "#c2410c", "#9ca3af", "#15803d", "#7c3aed", "#be123c"];

fn ms(seconds: f64) -> String {
    let ms = seconds * 1e3;
    let digits = if ms >= 100.0 {
        0
    } else if ms >= 10.0 {
        1
    } else {
        3
    };
    format!("{ms:.digits$}")
}

fn range(times: &Times) -> String {
    let (low, high) = times.ends();
    format!("{} [{}-{}]", ms(times.median()), ms(low), ms(high))
}

/// Bytes kept for a byte of the rows as the user sees them.
fn space(disk_bytes: u64, live_bytes: u64) -> String {
    match disk_bytes > 0 && live_bytes > 0 {
        true => format!("{:.2}", disk_bytes as f64 / live_bytes as f64),
        false => "-".to_owned(),
    }
}

/// Clean packs beside a piece of memory.
fn bandwidth_lines(b: &Bandwidth, out: &mut String) {
    let rate = |times: &Times| b.bytes as f64 / times.median() / 1e9;
    let _ = writeln!(
        out,
        "\nclean packs: sum of {:.0} MB, ms, median of {}",
        b.bytes as f64 / 1e6,
        b.memory.0.len()
    );
    let all = [
        ("memory, 1 thread", &b.memory),
        ("memory, 2 threads", &b.memory_two),
        ("a file, 1 thread", &b.mapped),
        ("a file, 2 threads", &b.mapped_two),
        ("packs, 1 thread", &b.one),
        ("packs, 2 threads", &b.two),
        ("groups, 1 thread", &b.groups_one),
        ("groups, 2 threads", &b.groups_two),
    ];
    for (name, times) in all {
        let _ = writeln!(
            out,
            "  {name:<18}{:>28}  {:>6.1} GB/s  {:.2}x",
            range(times),
            rate(times),
            rate(times) / rate(&b.memory)
        );
    }
    let _ = writeln!(
        out,
        "  of the memory's speed {:.2} (target 0.85), of a mapped file's {:.2}; two threads {:.2}x \
         one (target 1.7 where memory allows it: here it gives two threads {:.2}x of one, a file \
         {:.2}x): {:.2} of what two have from memory, {:.2} from a file",
        rate(&b.one) / rate(&b.memory),
        rate(&b.one) / rate(&b.mapped),
        rate(&b.two) / rate(&b.one),
        rate(&b.memory_two) / rate(&b.memory),
        rate(&b.mapped_two) / rate(&b.mapped),
        rate(&b.two) / rate(&b.memory_two),
        rate(&b.two) / rate(&b.mapped_two)
    );
    let _ = writeln!(
        out,
        "  sums by group, which memory does not bound: two threads {:.2}x one (target 1.7)",
        rate(&b.groups_two) / rate(&b.groups_one)
    );
}

impl Report {
    fn engine(&self, name: &str) -> Option<usize> {
        self.engines.iter().position(|engine| *engine == name)
    }

    /// How many times longer each engine takes than the first, averaged over cells.
    fn mean_ratio(&self, cells: &[&Cell], engine: usize) -> Option<f64> {
        let total = |at: usize| cells.iter().map(|cell| cell.median(at)).sum::<Option<f64>>();
        Some(total(engine)? / total(0)?)
    }

    fn of<'a>(cells: &'a [Cell], question: &str) -> Vec<&'a Cell> {
        cells.iter().filter(|cell| cell.question.starts_with(question)).collect()
    }

    fn table(&self, out: &mut String, cells: &[Cell]) {
        let Some(timed) = cells.iter().flat_map(|cell| cell.times.iter().flatten()).next() else {
            return;
        };
        let _ = write!(out, "{:<26}{:>7}", "question", "delta");
        for engine in &self.engines {
            let _ = write!(out, "{engine:>16}");
        }
        let _ = writeln!(out, "   ms, median of {}; ratios to {}", timed.0.len(), self.engines[0]);
        for cell in cells {
            let _ = write!(out, "{:<26}{:>5} %", cell.question, cell.percent);
            for (at, times) in cell.times.iter().enumerate() {
                let ratio = match cell.ratio(at) {
                    Some(ratio) if at > 0 => format!(" {ratio:.2}x"),
                    _ => String::new(),
                };
                let median = times.as_ref().map_or("-".to_owned(), |times| ms(times.median()));
                let _ = write!(out, "{:>16}", format!("{median}{ratio}"));
            }
            let spread = cell.times.iter().map(|times| {
                let Some((low, high)) = times.as_ref().map(Times::ends) else {
                    return "-".to_owned();
                };
                format!("{}-{}", ms(low), ms(high))
            });
            let _ = writeln!(out, "   [{}]", spread.collect::<Vec<_>>().join("; "));
        }
    }

    /// Rows that the folded sum goes through in a second.
    fn throughput(&self, out: &mut String) {
        let cells = Report::of(&self.ladder, "Q2 sum(k)");
        if cells.is_empty() {
            return;
        }
        let _ = writeln!(out, "\nQ2 sum(k): millions of rows/s (rows of the table / median)");
        for cell in cells {
            let _ = write!(out, "{:>31} %", cell.percent);
            for at in 0..self.engines.len() {
                let rate = cell.median(at).map(|median| self.rows as f64 / median / 1e6);
                let rate = rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
                let _ = write!(out, "{rate:>16}");
            }
            let _ = writeln!(out);
        }
    }

    /// Reads beside a piece of memory, and under writes.
    fn lines(&self, out: &mut String) {
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth_lines(bandwidth, out);
        }
        if let Some(w) = &self.under_writes {
            let _ = writeln!(
                out,
                "sum(k) of now while {:.0} rows/s are written: {}; while none are: {}: {:.2}x \
                 (target 0.9 to 1.1)",
                w.rate,
                range(&w.written),
                range(&w.quiet),
                w.written.median() / w.quiet.median()
            );
        }
    }

    /// Cells in which another engine that takes updates is faster than the first.
    fn losing(&self) -> Vec<String> {
        let rivals: Vec<usize> =
            (1..self.engines.len()).filter(|at| self.engines[*at] != "append-only").collect();
        let mut lost = Vec::new();
        let even = self.ladder.iter().chain(&self.cycle).map(|cell| ("uniform", cell));
        let placed = self.placed.iter();
        let placed = placed.flat_map(|(name, cells)| cells.iter().map(|cell| (*name, cell)));
        for (placement, cell) in even.chain(placed) {
            for at in &rivals {
                let Some(ratio) = cell.ratio(*at) else { continue };
                if ratio < 1.0 {
                    let (name, percent) = (&cell.question, cell.percent);
                    let engine = self.engines[*at];
                    lost.push(format!("{name} at {percent} %, {placement}: {engine} {ratio:.2}x"));
                }
            }
        }
        lost
    }

    fn writes_table(&self, out: &mut String) {
        let _ = writeln!(out, "\nwrites: in the cycle phase, after the load; MB by cause");
        let _ = writeln!(
            out,
            "{:<14}{:>12}{:>12}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}{:>9}{:>8}{:>9}",
            "engine",
            "load rows/s",
            "rows/s",
            "applied",
            "log",
            "flush",
            "compact",
            "merge",
            "manif.",
            "ampl.",
            "disk MB",
            "space",
            "mem MB"
        );
        for (engine, writes) in self.engines.iter().zip(&self.writes) {
            let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
            let rate = |rows: u64, seconds: f64| match seconds > 0.0 {
                true => format!("{:.0}", rows as f64 / seconds),
                false => "-".to_owned(),
            };
            let w = &writes.written;
            let amplification =
                w.amplification().filter(|a| *a > 0.0).map_or("-".into(), |a| format!("{a:.2}"));
            let _ = writeln!(
                out,
                "{:<14}{:>12}{:>12}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}{:>9}{:>8}{:>9}",
                engine,
                rate(self.rows, writes.load_seconds),
                rate(writes.updated_rows, writes.update_seconds),
                mb(w.applied),
                mb(w.log),
                mb(w.flush),
                mb(w.compaction),
                mb(w.merge),
                mb(w.manifest),
                amplification,
                mb(writes.disk_bytes),
                space(writes.disk_bytes, writes.live_bytes),
                mb(writes.memory_bytes)
            );
        }
        let _ = writeln!(
            out,
            "  disk: every file in the engine's folder at the end, logs and garbage too; of pages \
             in memory their bytes\n  space: disk for a byte of the live rows: 8 for the handle and \
             each column's newest value as Arrow has it, no versions\n  freshness is no column: a \
             snapshot taken after `apply` shows its rows in every engine; the bench `freshness` of \
             `spine` measures it through the whole cluster (benches/README.md)"
        );
    }

    fn cycle_tables(&self, out: &mut String) {
        let _ = writeln!(out, "\ncycle: sampled while updates and merges go on");
        self.table(out, &self.cycle);
        let _ = writeln!(out, "\naveraged over the cycle, ratios to {}:", self.engines[0]);
        for question in ["Q2", "Q3"] {
            let cells = Report::of(&self.cycle, question);
            for (at, engine) in self.engines.iter().enumerate().skip(1) {
                let Some(ratio) = self.mean_ratio(&cells, at) else { continue };
                let _ = writeln!(out, "  {question} {engine:<14}{ratio:.2}x");
            }
        }
        self.writes_table(out);
    }

    fn paper(&self, out: &mut String) {
        let _ =
            writeln!(out, "\nThe paper's Table 2 (Q1, 100 M rows, 20 cores, s; LSM / DeltaTree):");
        for (rate, delta, lsm) in PAPER {
            let _ =
                writeln!(out, "  {rate:>6} txn/s   {delta:.2}   {lsm:.2}   {:.2}x", lsm / delta);
        }
        let _ = writeln!(out, "  write amplification there: DeltaTree 16.11, LSM 4.74");
        let (Some(strong), cells) = (self.engine("lsm strong"), Report::of(&self.ladder, "Q1"))
        else {
            return;
        };
        if !cells.is_empty() {
            let _ = writeln!(out, "Ours, {} rows, one thread (s):", self.rows);
        }
        for cell in cells {
            let (Some(delta), Some(lsm)) = (cell.median(0), cell.median(strong)) else { continue };
            let _ = writeln!(
                out,
                "  {:>3} % updated   {delta:.5}   {lsm:.5}   {:.2}x",
                cell.percent,
                lsm / delta
            );
        }
    }

    /// The whole report.
    pub fn text(&self) -> String {
        let mut out = format!(
            "columns: {} rows of {} columns; LSM pages in {}; {}\n\n",
            self.rows,
            self.columns,
            lsm_kind(),
            self.machine
        );
        self.table(&mut out, &self.ladder);
        self.throughput(&mut out);
        for (placement, cells) in &self.placed {
            let _ = writeln!(out, "\nupdates placed: {placement}");
            self.table(&mut out, cells);
        }
        if !self.cycle.is_empty() {
            self.cycle_tables(&mut out);
        }
        self.lines(&mut out);
        if !self.ladder.is_empty() {
            self.paper(&mut out);
        }
        let lost = self.losing();
        let _ = writeln!(out, "\ncells that {} loses: {}", self.engines[0], lost.len());
        for cell in lost {
            let _ = writeln!(out, "  {cell}");
        }
        out
    }

    /// A line per engine: seconds over the percent updated.
    fn plot(&self, title: &str, cells: &[&Cell]) -> String {
        let right = cells.iter().map(|cell| cell.percent).max().unwrap_or(1).max(1) as f64;
        let all = cells.iter().flat_map(|cell| cell.times.iter().flatten().map(Times::median));
        let top = all.fold(f64::MIN_POSITIVE, f64::max);
        let mut svg = format!(
            "<h3>{title}</h3><svg viewBox='-60 -10 {} {}' width='{}'>",
            PLOT_WIDTH + 200.0,
            PLOT_HEIGHT + 50.0,
            PLOT_WIDTH + 200.0
        );
        for step in 0..=4 {
            let part = f64::from(step) / 4.0;
            let y = PLOT_HEIGHT * (1.0 - part);
            let _ = write!(
                svg,
                "<line x1='0' x2='{PLOT_WIDTH}' y1='{y}' y2='{y}' stroke='#ddd'/>\
                 <text x='-6' y='{y}' text-anchor='end'>{} ms</text>\
                 <text x='{}' y='{}' text-anchor='middle'>{:.0} %</text>",
                ms(top * part),
                PLOT_WIDTH * part,
                PLOT_HEIGHT + 18.0,
                right * part
            );
        }
        for (at, engine) in self.engines.iter().enumerate() {
            let color = COLORS[at % COLORS.len()];
            let point = |cell: &&Cell| {
                let x = PLOT_WIDTH * cell.percent as f64 / right;
                let y = PLOT_HEIGHT * (1.0 - cell.median(at)? / top);
                Some(format!("{x:.1},{y:.1}"))
            };
            let points: Vec<String> = cells.iter().filter_map(point).collect();
            let y = 14 + 18 * at;
            let _ = write!(
                svg,
                "<polyline fill='none' stroke='{color}' stroke-width='2' points='{}'/>\
                 <text x='{}' y='{y}' fill='{color}'>{engine}</text>",
                points.join(" "),
                PLOT_WIDTH + 12.0
            );
        }
        svg + "</svg>"
    }

    /// The report as a page of its own.
    pub fn html(&self) -> String {
        let mut plots = String::new();
        let mut questions: Vec<&str> = Vec::new();
        for cell in &self.ladder {
            if cell.percent > 0 && !questions.contains(&cell.question.as_str()) {
                questions.push(&cell.question);
            }
        }
        for question in ["Q2", "Q3"] {
            let title = format!("{question}, averaged over nothing: the cycle as it went");
            plots += &self.plot(&title, &Report::of(&self.cycle, question));
        }
        for question in questions {
            plots += &self.plot(question, &Report::of(&self.ladder, question));
        }
        let text = self.text().replace('&', "&amp;").replace('<', "&lt;");
        format!(
            "<!doctype html><meta charset='utf-8'><title>Columns</title>\
             <style>body{{font:15px sans-serif;margin:2em}}svg text{{font-size:12px}}\
             pre{{font-size:12px;overflow-x:auto}}</style>\
             <h1>Columns under updates</h1><p>Time over the part of the rows that was updated; \
             less is better.</p>{plots}<h2>Numbers</h2><pre>{text}</pre>"
        )
    }
}
