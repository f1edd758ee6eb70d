----------------------------- MODULE LearnerRead -----------------------------
(* A read of columns at a timestamp sees what rows show at it (learner/src/read.rs, machine.rs,   *)
(* compact.rs; txn/src/concurrency.rs).                                                           *)
(*                                                                                                *)
(*   ask the leader at ts --> index applied here --> region, locks --> snapshot --> region again  *)
(*                                                                                                *)
(* One region of two keys, later two regions; a log of locks, commits and writes of one phase,    *)
(* which the leader applies at once and the columns later, entry by entry. Columns may be         *)
(* replaced by an import, and a part of them goes when the split-off region moves away.           *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS Txns, TsMax, ImportsMax, Broken

Keys == {1, 2}

VARIABLES clock,      \* the newest timestamp of the oracle
          txn,        \* clients: two phases or one
          log,        \* the region's entries
          max_ts,     \* at the leader: the highest timestamp that was read
          pending,    \* at the leader: versions that are being written in one phase, or 0
          applied,    \* by the columns
          rows, locks, \* of the columns: <<key, commit, txn>> and <<key, txn>>
          late,       \* rows that are decided and not stored yet
          version,    \* of the region, as the columns know it
          generation, \* raised by each import
          ready,      \* no import is under way
          imports,
          reader,     \* a column read
          answer      \* what it saw, for ever

vars == <<clock, txn, log, max_ts, pending, applied, rows, locks, late, version, generation,
          ready, imports, reader, answer>>

NoAnswer == [ts |-> 0, keys |-> {}, seen |-> {}]
Idle == [at |-> "idle", ts |-> 0, index |-> 0, version |-> 0, generation |-> 0, seen |-> {}]

Init ==
  /\ clock = 0
  /\ txn = [t \in Txns |-> [at |-> "idle", start |-> 0, commit |-> 0, locked |-> {}]]
  /\ log = <<>> /\ max_ts = 0 /\ pending = [t \in Txns |-> 0]
  /\ applied = 0 /\ rows = {} /\ locks = {} /\ late = {}
  /\ version = 1 /\ generation = 0 /\ ready = TRUE /\ imports = 0
  /\ reader = Idle /\ answer = NoAnswer

Max(a, b) == IF a > b THEN a ELSE b
Entry(kind, t, keys, commit) == [kind |-> kind, txn |-> t, keys |-> keys, commit |-> commit]

(* --------------------------------- the leader's side ------------------------------------------- *)

Indices == DOMAIN log
LockedBy(k) == {t \in Txns : /\ \E i \in Indices : log[i].kind = "lock" /\ log[i].txn = t /\ k \in log[i].keys
                             /\ ~\E i \in Indices : log[i].kind = "write" /\ log[i].txn = t /\ k \in log[i].keys}
(* Rows: what is committed to a key, as <<key, commit, txn>>. *)
Commits == {<<k, log[i].commit, log[i].txn>> : <<k, i>> \in
             {<<k, i>> \in Keys \X Indices : log[i].kind = "write" /\ k \in log[i].keys}}

Visible(all, ts, keys) ==
  {r \in all : /\ r[1] \in keys /\ r[2] <= ts
               /\ ~\E o \in all : o[1] = r[1] /\ o[2] <= ts /\ o[2] > r[2]}

(* A key may be written if nobody holds it and nobody has committed to it since the start. *)
Free(t, k) == /\ LockedBy(k) \subseteq {t}
              /\ \A o \in Txns \ {t} : pending[o] = 0
              /\ \A c \in Commits : c[1] = k => c[2] <= txn[t].start

Start(t) ==
  /\ txn[t].at = "idle" /\ clock < TsMax
  /\ \A i \in Indices : log[i].kind # "split"   \* later ones write elsewhere
  /\ clock' = clock + 1
  /\ txn' = [txn EXCEPT ![t].at = "started", ![t].start = clock + 1]
  /\ UNCHANGED <<log, max_ts, pending, applied, rows, locks, late, version, generation, ready,
                 imports, reader, answer>>

Prewrite(t, k) ==
  /\ txn[t].at = "started" /\ k \notin txn[t].locked /\ Free(t, k) /\ pending[t] = 0
  /\ log' = Append(log, Entry("lock", t, {k}, 0))
  /\ txn' = [txn EXCEPT ![t].locked = @ \cup {k}]
  /\ UNCHANGED <<clock, max_ts, pending, applied, rows, locks, late, version, generation, ready,
                 imports, reader, answer>>

Decide(t) ==
  /\ txn[t].at = "started" /\ txn[t].locked = Keys /\ clock < TsMax
  /\ clock' = clock + 1
  /\ txn' = [txn EXCEPT ![t].at = "decided", ![t].commit = clock + 1]
  /\ UNCHANGED <<log, max_ts, pending, applied, rows, locks, late, version, generation, ready,
                 imports, reader, answer>>

Commit(t, k) ==
  /\ txn[t].at = "decided" /\ t \in LockedBy(k)
  /\ log' = Append(log, Entry("write", t, {k}, txn[t].commit))
  /\ UNCHANGED <<clock, txn, max_ts, pending, applied, rows, locks, late, version, generation,
                 ready, imports, reader, answer>>

(* One phase: into the table, above every read; then the log; then out of the table. *)
Prepare(t) ==
  /\ txn[t].at = "started" /\ txn[t].locked = {} /\ pending[t] = 0
  /\ \A k \in Keys : Free(t, k)
  /\ Max(max_ts, txn[t].start) < TsMax
  /\ pending' = [pending EXCEPT ![t] = Max(max_ts, txn[t].start) + 1]
  /\ UNCHANGED <<clock, txn, log, max_ts, applied, rows, locks, late, version, generation, ready,
                 imports, reader, answer>>

WriteAtOnce(t) ==
  /\ pending[t] # 0
  /\ log' = Append(log, Entry("write", t, Keys, pending[t]))
  /\ pending' = [pending EXCEPT ![t] = 0]
  /\ txn' = [txn EXCEPT ![t].at = "decided", ![t].commit = pending[t]]
  /\ UNCHANGED <<clock, max_ts, applied, rows, locks, late, version, generation, ready, imports,
                 reader, answer>>

(* Key 1 becomes a region of its own, and its replica here moves away: its rows go. *)
SplitAndMove ==
  /\ \A i \in Indices : log[i].kind # "split"
  /\ \A t \in Txns : pending[t] = 0 /\ txn[t].at # "started"
  /\ LockedBy(1) = {}
  /\ log' = Append(log, Entry("split", 0, {}, 0))
  /\ UNCHANGED <<clock, txn, max_ts, pending, applied, rows, locks, late, version, generation,
                 ready, imports, reader, answer>>

(* --------------------------------- the columns' side ------------------------------------------- *)

RowsOf(e) == {<<k, e.commit, e.txn>> : k \in e.keys}
LocksOf(e) == {<<k, e.txn>> : k \in e.keys}
Gone(set) == {x \in set : x[1] = 1}   \* what the move takes away

(* The row is stored before its lock goes: together, for readers hold the region meanwhile. *)
Apply ==
  /\ ready /\ late = {} /\ applied < Len(log)
  /\ LET e == log[applied + 1] IN
     CASE e.kind = "lock" -> /\ locks' = locks \cup LocksOf(e)
                             /\ UNCHANGED <<rows, late, version>>
       [] e.kind = "write" -> /\ locks' = locks \ LocksOf(e)
                              /\ IF Broken = "lock_dropped_before_row"
                                 THEN late' = RowsOf(e) /\ UNCHANGED rows
                                 ELSE rows' = rows \cup RowsOf(e) /\ UNCHANGED late
                              /\ UNCHANGED version
       [] OTHER -> /\ version' = version + 1
                   /\ rows' = rows \ Gone(rows)
                   /\ UNCHANGED <<locks, late>>
  /\ applied' = applied + 1
  /\ UNCHANGED <<clock, txn, log, max_ts, pending, generation, ready, imports, reader, answer>>

StoreLate ==
  /\ late # {}
  /\ rows' = rows \cup late /\ late' = {}
  /\ UNCHANGED <<clock, txn, log, max_ts, pending, applied, locks, version, generation, ready,
                 imports, reader, answer>>

(* The region's content is replaced by the leader's: first all of it goes. *)
BeginImport ==
  /\ ready /\ late = {} /\ imports < ImportsMax /\ applied < Len(log)
  /\ imports' = imports + 1
  /\ ready' = FALSE /\ generation' = generation + 1
  /\ rows' = {} /\ locks' = {}
  /\ UNCHANGED <<clock, txn, log, max_ts, pending, applied, late, version, reader, answer>>

IsSplit == \E i \in Indices : log[i].kind = "split"
EndImport ==
  /\ ~ready
  /\ ready' = TRUE
  /\ applied' = Len(log)
  /\ rows' = IF IsSplit THEN Commits \ Gone(Commits) ELSE Commits
  /\ locks' = {<<k, t>> \in Keys \X Txns : t \in LockedBy(k)}
  /\ version' = IF IsSplit THEN 2 ELSE 1
  /\ UNCHANGED <<clock, txn, log, max_ts, pending, late, generation, imports, reader, answer>>

(* --------------------------------- a read ------------------------------------------------------- *)

Unchanged == UNCHANGED <<clock, txn, log, pending, applied, rows, locks, late, version, generation,
                         ready, imports>>

(* A fresh timestamp, and the description that the columns have now. *)
Begin ==
  /\ reader.at = "idle" /\ answer = NoAnswer /\ clock < TsMax
  /\ clock' = clock + 1
  /\ reader' = [Idle EXCEPT !.at = "ask", !.ts = clock + 1, !.version = version]
  /\ UNCHANGED <<txn, log, max_ts, pending, applied, rows, locks, late, version, generation,
                 ready, imports, answer>>

(* The leader hears of the timestamp, then looks at what is being written, then tells the index. *)
Ask ==
  /\ reader.at = "ask"
  /\ max_ts' = IF Broken = "leader_not_told" THEN max_ts ELSE Max(max_ts, reader.ts)
  /\ \A t \in Txns : pending[t] = 0 \/ pending[t] > reader.ts
  /\ reader' = [reader EXCEPT !.at = IF Broken = "snapshot_before_locks" THEN "snapshot" ELSE "check",
                              !.index = IF Broken = "read_index_skipped" THEN 0 ELSE Len(log)]
  /\ UNCHANGED answer /\ Unchanged

Fits == ready /\ version = reader.version
Blocking == \E l \in locks : /\ txn[l[2]].start <= reader.ts
                             /\ l[1] \in IF reader.version = 1 THEN Keys ELSE {2}

Check ==
  /\ reader.at = "check" /\ UNCHANGED max_ts /\ UNCHANGED answer /\ Unchanged
  /\ IF version # reader.version THEN reader' = Idle     \* routed anew
     ELSE /\ Fits /\ applied >= reader.index /\ ~Blocking
          /\ reader' = [reader EXCEPT !.generation = generation,
               !.at = IF Broken = "snapshot_before_locks" THEN "again" ELSE "snapshot"]

TakeSnapshot ==
  /\ reader.at = "snapshot" /\ UNCHANGED max_ts /\ UNCHANGED answer /\ Unchanged
  /\ reader' = [reader EXCEPT !.seen = rows,
                              !.at = IF Broken = "snapshot_before_locks" THEN "check" ELSE "again"]

Again ==
  /\ reader.at = "again" /\ UNCHANGED max_ts /\ Unchanged
  /\ reader' = Idle
  /\ IF (Fits /\ generation = reader.generation) \/ Broken = "region_not_checked_again"
     THEN LET keys == IF reader.version = 1 THEN Keys ELSE {2}
          IN answer' = [ts |-> reader.ts, keys |-> keys,
                        seen |-> Visible(reader.seen, reader.ts, keys)]
     ELSE UNCHANGED answer

Next ==
  \/ \E t \in Txns : Start(t) \/ Decide(t) \/ Prepare(t) \/ WriteAtOnce(t)
  \/ \E t \in Txns, k \in Keys : Prewrite(t, k) \/ Commit(t, k)
  \/ SplitAndMove \/ Apply \/ StoreLate \/ BeginImport \/ EndImport
  \/ Begin \/ Ask \/ Check \/ TakeSnapshot \/ Again

Spec == Init /\ [][Next]_vars

(* What columns showed at a timestamp is what rows show at it, now and for ever. *)
row_equals_column ==
  answer = NoAnswer \/ answer.seen = Visible(Commits, answer.ts, answer.keys)
==============================================================================
