//! `damask ctl`: a cluster's stores, regions and operators in tables, and orders to its placement
//! driver, over the status port. It must never talk to a store: the driver says what is done.

use crate::cli::{Error, playground};
use damask_pd::{Intent, Order, StoreSettings};
use damask_types::{RegionId, StoreId};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Until the cluster answers.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer, at most.
const ANSWER_MAX: u64 = 256 << 20;
/// Ids that are named when one is not among them.
const IDS_SHOWN: usize = 20;
/// Hex digits of a key that are shown.
const KEY_SHOWN: usize = 32;

/// Where, and what.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where the cluster serves status: an address or a name, and a port.
    #[arg(long, global = true, value_name = "HOST:PORT", value_parser = resolve,
          default_value_t = playground::STATUS)]
    status: SocketAddr,
    /// Lists as JSON, as the status port gives them.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// The placement driver's members, and who leads.
    Members,
    /// Every store: what it is meant to do, what it carries.
    Stores,
    /// Every region: its range, epoch, term, size, versions of rows, requests a second, replicas (*
    /// leads, ~ learns, ? has not caught up), and the timestamp up to which any replica of rows may
    /// be read.
    Regions {
        /// Only those with a replica on this store.
        #[arg(long)]
        store: Option<u64>,
        /// Keys as long as they are.
        #[arg(long)]
        full: bool,
    },
    /// Operators in flight, then some that have ended: in the placement driver's memory alone, so
    /// that those not done are forgotten when it starts again.
    Operators,
    /// Split a region, in the middle or at keys.
    Split {
        /// Its id.
        region: u64,
        /// User keys in hexadecimal (as `regions --full` shows them), ascending.
        keys: Vec<String>,
    },
    /// Let the replica on a store lead a region.
    Transfer {
        /// The region's id.
        region: u64,
        /// The store's.
        to: u64,
    },
    /// Move a replica of a region.
    Move {
        /// The region's id.
        region: u64,
        /// The store that has it.
        from: u64,
        /// The store that gets it.
        to: u64,
    },
    /// Merge a region into its neighbour.
    Merge {
        /// The region that disappears.
        region: u64,
        /// The region that grows.
        into: u64,
    },
    /// Give up the operator that is in flight for a region.
    Cancel {
        /// The region's id.
        region: u64,
    },
    /// Move every leader, then every replica off a store: it is about to leave. `serve` takes it
    /// back.
    Drain {
        /// Its id.
        store: u64,
    },
    /// Move every leader off a store; replicas stay. `serve` takes it back.
    Evict {
        /// Its id.
        store: u64,
    },
    /// Let a store take replicas and lead again.
    Serve {
        /// Its id.
        store: u64,
    },
    /// Say where a store stands, as in `host=a rack=3`; an empty value removes a label.
    Label {
        /// Its id.
        store: u64,
        /// name=value
        #[arg(required = true, value_parser = label)]
        labels: Vec<(String, String)>,
    },
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().map_err(|e| format!("{e}: HOST:PORT is expected"))?;
    // As most servers do, a cluster listens on one of a name's addresses: the older kind first.
    let all: Vec<SocketAddr> = found.collect();
    let first = all.iter().find(|a| a.is_ipv4()).or(all.first());
    first.copied().ok_or_else(|| format!("{text} has no address"))
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("name=value is expected")?;
    if name.is_empty() {
        return Err("a label needs a name".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs one command.
pub fn run(options: &Options) -> Result<(), Error> {
    let http = Http(options.status);
    let region = |id: &u64| RegionId(*id);
    let list = |path: &str, table: &dyn Fn(&Value) -> String| {
        let list = http.get(path)?;
        match options.json {
            true => print(&format!("{list:#}\n")),
            false => print(&table(&list)),
        }
    };
    let order = match &options.command {
        Command::Members => return list("/members", &members),
        Command::Stores => return list("/stores", &stores),
        Command::Regions { store, full } => {
            if let Some(store) = store {
                find(&http.get("/stores")?, "store", *store)?;
            }
            return list("/regions", &|all| regions(all, *store, *full));
        }
        Command::Operators => return list("/operators", &operators),
        Command::Drain { store } => return intend(&http, *store, Intent::Drain),
        Command::Evict { store } => return intend(&http, *store, Intent::Evict),
        Command::Serve { store } => return intend(&http, *store, Intent::Serve),
        Command::Label { store, labels } => return relabel(&http, *store, labels),
        Command::Split { region: id, keys } => {
            let keys = keys.iter().map(|key| unhex(key)).collect::<Result<_, _>>();
            if keys.is_err() {
                // What is wrong with the region is said before what is wrong with its keys.
                find(&http.get("/regions")?, "region", *id)?;
            }
            Order::Split { region: region(id), keys: keys? }
        }
        Command::Transfer { region: id, to } => {
            Order::Transfer { region: region(id), to: StoreId(*to) }
        }
        Command::Move { region: id, from, to } => {
            Order::Move { region: region(id), from: StoreId(*from), to: StoreId(*to) }
        }
        Command::Merge { region: id, into } => {
            Order::Merge { region: region(id), into: region(into) }
        }
        Command::Cancel { region: id } => Order::Cancel { region: region(id) },
    };
    http.post("/orders", &serde_json::to_string(&order)?)?;
    print("accepted, in the driver's memory; `damask ctl operators` shows how far it is\n")
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()) {
        // Whoever reads the table has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// A store's settings as they are.
fn settings(http: &Http, store: u64) -> Result<StoreSettings, Error> {
    let list = http.get("/stores")?;
    let found = find(&list, "store", store)?;
    Ok(StoreSettings {
        intent: serde_json::from_value(found["intent"].clone())?,
        labels: serde_json::from_value(found["labels"].clone())?,
    })
}

/// One of a list, by its id; else which ids there are.
fn find<'a>(list: &'a Value, what: &str, id: u64) -> Result<&'a Value, String> {
    let all = list.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|one| one["id"] == id).ok_or_else(|| {
        let ids: Vec<String> =
            all.iter().take(IDS_SHOWN).map(|one| one["id"].to_string()).collect();
        let more = if all.len() > IDS_SHOWN { ", …" } else { "" };
        format!("there is no {what} {id}; the {what}s are {}{more}", ids.join(", "))
    })
}

fn change(http: &Http, store: u64, settings: &StoreSettings) -> Result<(), Error> {
    http.post(&format!("/stores/{store}"), &serde_json::to_string(settings)?)?;
    Ok(())
}

fn intend(http: &Http, store: u64, intent: Intent) -> Result<(), Error> {
    let before = settings(http, store)?;
    let was = match before.intent {
        was if was == intent => "",
        Intent::Serve => "",
        Intent::Evict => "it was to lead nothing; now ",
        Intent::Drain => "it was to leave; now ",
    };
    change(http, store, &StoreSettings { intent, ..before })?;
    print(was)?;
    print(match intent {
        Intent::Serve => "the store serves\n",
        Intent::Evict => "leaders go; `damask ctl stores` shows how many are left\n",
        Intent::Drain => {
            "leaders and replicas go, as far as other stores of its kind have none of them; \
             `damask ctl stores` shows how many are left\n"
        }
    })
}

fn relabel(http: &Http, store: u64, labels: &[(String, String)]) -> Result<(), Error> {
    let mut settings = settings(http, store)?;
    for (name, value) in labels {
        match value.is_empty() {
            true => settings.labels.remove(name),
            false => settings.labels.insert(name.clone(), value.clone()),
        };
    }
    change(http, store, &settings)?;
    let list: BTreeMap<_, _> = settings.labels;
    print(&format!("labels: {}\n", pairs(&list)))
}

fn pairs(labels: &BTreeMap<String, String>) -> String {
    let list: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    list.join(" ")
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    let pair = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(pair).collect();
    let bytes = bytes.filter(|bytes| !bytes.is_empty());
    bytes.ok_or_else(|| {
        format!("{text}: a key is written in pairs of hexadecimal digits, as 7480000000000000ff")
    })
}

fn members(list: &Value) -> String {
    let mut rows = vec![row(&["member", "state", "role", "term", "applied", "reason"])];
    for member in list.as_array().into_iter().flatten() {
        let role = match (member["state"] == "up", member["leads"] == true) {
            (true, true) => "leader",
            (true, false) => "follower",
            (false, _) => "-",
        };
        rows.push(vec![
            text(&member["id"]),
            text(&member["state"]),
            role.to_owned(),
            text(&member["term"]),
            text(&member["applied"]),
            text(&member["reason"]),
        ]);
    }
    table(&rows)
}

fn stores(list: &Value) -> String {
    let mut rows = vec![row(&[
        "store", "kind", "state", "intent", "replicas", "leaders", "pending", "size", "writes/s",
        "labels",
    ])];
    for store in list.as_array().into_iter().flatten() {
        let labels = serde_json::from_value(store["labels"].clone()).unwrap_or_default();
        let state = match (text(&store["state"]).as_str(), text(&store["health"]).as_str()) {
            ("up", "up") => "up".to_owned(),
            ("up", health) => format!("up, {health}"),
            (state, _) => state.to_owned(),
        };
        let load = &store["load"];
        rows.push(vec![
            text(&store["id"]),
            text(&store["kind"]).to_lowercase(),
            state,
            text(&store["intent"]),
            text(&load["replicas"]),
            text(&load["leaders"]),
            text(&load["pending"]),
            size(&load["bytes"]),
            text(&load["write"]),
            pairs(&labels),
        ]);
    }
    table(&rows)
}

fn regions(list: &Value, store: Option<u64>, full: bool) -> String {
    let key = |value| key(value, if full { usize::MAX } else { KEY_SHOWN });
    let mut rows = vec![row(&[
        "region", "start", "end", "epoch", "term", "size", "keys", "reads/s", "writes/s",
        "safe_ts", "replicas",
    ])];
    for region in list.as_array().into_iter().flatten() {
        let all = region["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
        if store.is_some_and(|store| all.iter().all(|peer| peer["store"] != store)) {
            continue;
        }
        let pending = region["pending"].as_array().map(Vec::as_slice).unwrap_or_default();
        let peer = |peer: &Value| {
            let leads = peer["id"] == region["leader"]["id"];
            let late = pending.contains(&peer["id"]);
            let mark = |is: bool, mark: &'static str| if is { mark } else { "" };
            let learns = mark(peer["role"] == "Learner", "~");
            format!("{}{}{learns}{}", text(&peer["store"]), mark(leads, "*"), mark(late, "?"))
        };
        let epoch = &region["epoch"];
        rows.push(vec![
            text(&region["id"]),
            key(&region["start"]),
            key(&region["end"]),
            format!("{}/{}", text(&epoch["version"]), text(&epoch["conf_ver"])),
            text(&region["term"]),
            size(&region["bytes"]),
            text(&region["keys"]),
            text(&region["flow"]["read"]),
            text(&region["flow"]["write"]),
            text(&region["safe_ts"]),
            all.iter().map(peer).collect::<Vec<_>>().join(" "),
        ]);
    }
    table(&rows)
}

fn operators(list: &Value) -> String {
    let mut rows = vec![row(&["region", "why", "age", "state", "steps"])];
    for operator in list.as_array().into_iter().flatten() {
        let steps = operator["steps"].as_array().into_iter().flatten();
        rows.push(vec![
            text(&operator["region"]),
            text(&operator["kind"]),
            format!("{:.1} s", operator["age_ms"].as_f64().unwrap_or(0.0) / 1000.0),
            text(&operator["state"]),
            steps.map(text).collect::<Vec<_>>().join(", then "),
        ]);
    }
    if rows.len() == 1 {
        return "no operator is in flight\n".to_owned();
    }
    table(&rows)
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn key(value: &Value, shown: usize) -> String {
    match text(value) {
        empty if empty.is_empty() => "-".to_owned(),
        long if long.len() > shown => format!("{}…", &long[..shown]),
        short => short,
    }
}

fn size(value: &Value) -> String {
    let bytes = value.as_f64().unwrap_or(0.0);
    match bytes {
        b if b >= 1024.0 * 1024.0 => format!("{:.1} MiB", b / 1024.0 / 1024.0),
        b if b >= 1024.0 => format!("{:.1} KiB", b / 1024.0),
        b => format!("{b} B"),
    }
}

/// Columns as wide as their widest cell; the last is not filled up.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:<width$}  ").expect("a string takes all");
        }
        writeln!(out, "{}", line.trim_end()).expect("a string takes all");
    }
    out
}

/// As much of HTTP/1.1 as the status port speaks.
struct Http(SocketAddr);

impl Http {
    fn get(&self, path: &str) -> Result<Value, Error> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.0))
    }

    fn post(&self, path: &str, body: &str) -> Result<Value, Error> {
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.0,
            body.len()
        ))
    }

    fn ask(&self, request: &str) -> Result<Value, Error> {
        let addr = self.0;
        let unreachable = |e: std::io::Error| {
            format!(
                "no cluster answers at {addr} ({e}): is one running, and is this its status \
                 address? `--status ADDR` names another"
            )
        };
        let mut stream = TcpStream::connect_timeout(&addr, TIMEOUT).map_err(unreachable)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(request.as_bytes()).map_err(unreachable)?;
        let mut bytes = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut bytes).map_err(unreachable)?;
        parse(&bytes).map_err(|why| match why {
            Refusal::Said(text) => text.into(),
            Refusal::Odd => format!("what answers at {addr} is not a cluster's status port").into(),
        })
    }
}

#[derive(Debug, PartialEq)]
enum Refusal {
    /// In the cluster's words.
    Said(String),
    /// Not the answer of a status port.
    Odd,
}

fn parse(bytes: &[u8]) -> Result<Value, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::Odd)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(Refusal::Odd)?;
    let status = head.strip_prefix("HTTP/1.1 ").ok_or(Refusal::Odd)?;
    let is_ok = status.starts_with("200");
    match (serde_json::from_str::<Value>(body), is_ok) {
        (Ok(value), true) => Ok(value),
        (Ok(value), false) if value["error"].is_string() => Err(Refusal::Said(text_of(&value))),
        // A body that does not fit is refused by the server itself, in plain words.
        (_, false) if status.starts_with('4') && !body.is_empty() => {
            Err(Refusal::Said(body.trim().to_owned()))
        }
        _ => Err(Refusal::Odd),
    }
}

fn text_of(value: &Value) -> String {
    text(&value["error"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn command(line: &str) -> Result<Command, clap::Error> {
        let words = std::iter::once("ctl").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.options.command)
    }

    #[test]
    fn commands_are_checked() {
        assert!(
            matches!(command("split 7 0a 0b"), Ok(Command::Split { region: 7, keys }) if keys.len() == 2)
        );
        let at = |line: &str| {
            let words = std::iter::once("ctl").chain(line.split_whitespace());
            Line::try_parse_from(words).map(|line| line.options.status.to_string())
        };
        for line in ["--status localhost:99 stores", "stores --status 127.0.0.1:99"] {
            assert_eq!(at(line).unwrap(), "127.0.0.1:99", "{line}");
        }
        for bad in ["--status localhost stores", "stores --status localhost:http"] {
            assert!(at(bad).is_err(), "{bad}");
        }
        assert!(matches!(command("move 7 1 2"), Ok(Command::Move { region: 7, from: 1, to: 2 })));
        assert!(matches!(command("label 1 host=a"), Ok(Command::Label { .. })));
        for bad in ["", "split", "transfer 1", "move 1 2", "label 1", "label 1 host", "label 1 =a"]
        {
            assert!(command(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_hexadecimal() {
        assert_eq!(unhex("00fF7a"), Ok(vec![0, 0xFF, 0x7A]));
        assert_eq!(unhex("0x00ff"), Ok(vec![0, 0xFF]));
        for bad in ["", "0", "0g", "0x", "é"] {
            assert!(unhex(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_is_not_in_a_list_is_named_with_those_who_are() {
        let list = json!([{"id": 1}, {"id": 7}]);
        assert_eq!(find(&list, "store", 7), Ok(&json!({"id": 7})));
        let why = "there is no region 99999; the regions are 1, 7";
        assert_eq!(find(&list, "region", 99999), Err(why.to_owned()));
        let many: Value = (0..100).map(|id| json!({"id": id})).collect();
        let why = find(&many, "region", 99999).unwrap_err();
        assert!(why.ends_with(", 19, …"), "{why}");
    }

    #[test]
    fn answers_are_taken_apart() {
        let http = |status: &str, body: &str| format!("HTTP/1.1 {status}\r\nA: b\r\n\r\n{body}");
        assert_eq!(parse(http("200 OK", "[1]").as_bytes()), Ok(json!([1])));
        let said = |text: &str| Err(Refusal::Said(text.to_owned()));
        assert_eq!(parse(http("400 Bad", r#"{"error":"no"}"#).as_bytes()), said("no"));
        assert_eq!(parse(http("422 Un", "a body\n").as_bytes()), said("a body"));
        for odd in ["", "SSH-2.0-x", &http("200 OK", "<html>"), &http("500 Oh", "")] {
            assert_eq!(parse(odd.as_bytes()), Err(Refusal::Odd), "{odd}");
        }
    }

    #[test]
    fn members_have_a_role_while_they_run() {
        let list = json!([
            {"id": 1, "state": "up", "reason": null, "leads": false, "term": 7, "applied": 90},
            {"id": 2, "state": "up", "reason": null, "leads": true, "term": 7, "applied": 91},
            {"id": 3, "state": "stopped", "reason": null, "leads": false, "term": null,
             "applied": null},
        ]);
        let expected = "member  state    role      term  applied  reason\n\
                        1       up       follower  7     90       -\n\
                        2       up       leader    7     91       -\n\
                        3       stopped  -         -     -        -\n";
        assert_eq!(members(&list), expected);
    }

    #[test]
    fn tables_are_aligned() {
        let list = json!([{
            "id": 5, "start": "", "end": "61".repeat(40), "term": 6, "bytes": 3 << 20, "keys": 77,
            "epoch": {"version": 2, "conf_ver": 3}, "flow": {"read": 9, "write": 12},
            "safe_ts": 471_000_000_000_000_123_u64,
            "peers": [
                {"id": 51, "store": 1, "role": "Voter"},
                {"id": 52, "store": 2, "role": "Voter"},
                {"id": 59, "store": 101, "role": "Learner"},
            ],
            "leader": {"id": 52, "store": 2, "role": "Voter"}, "pending": [59],
        }]);
        let shown = regions(&list, None, false);
        let end = "61".repeat(16);
        let expected = format!(
            "region  start  end                                epoch  term  size     keys  reads/s  \
             writes/s  safe_ts             replicas\n5       -      {end}…  2/3    6     3.0 MiB  \
             77    9        12        471000000000000123  1 2* 101~?\n"
        );
        assert_eq!(shown, expected);
        assert_eq!(regions(&list, Some(3), false).lines().count(), 1, "none there");
        assert_eq!(regions(&list, Some(101), false).lines().count(), 2);
    }
}
