------------------------------ MODULE Percolator ------------------------------
(* Transactions in two phases, in async commit and in one phase, with reads, resolution of locks  *)
(* and a change of leader (txn/src/concurrency.rs, percolator, commit.rs, resolve.rs).            *)
(*                                                                                                *)
(*   reader   max_ts up --> look in the table --> snapshot                                        *)
(*   writer   into the table --> min_commit_ts := max_ts + 1 --> decide, propose --> applied -->  *)
(*            out of the table                                                                    *)
(*   leader   anew: max_ts is a fresh timestamp before any async or one-phase prewrite            *)
(*                                                                                                *)
(* One region; key 1 is the primary. Requests are lost and come again, clients stop anywhere,     *)
(* anybody resolves a lock at any time (every lock counts as expired). Latches serialise the      *)
(* requests of a key.                                                                             *)
EXTENDS Naturals, FiniteSets

CONSTANTS Txns,
          KeysOf,      \* which keys each transaction writes; with 1, unless it is one key
          WaysOf,      \* how it may end: "two", "async", "one"
          TsMax, LeadersMax, Reads, Broken

Keys == {1, 2}
BothAndOne == <<{1, 2}, {2}>>
Apart == <<{1}, {2}>>
AnyAndShort == <<{"two", "async", "one"}, {"two", "one"}>>

VARIABLES clock, max_ts, synced, leaders,
          txn,         \* of each client
          flight,      \* a prewrite at the server: key or both, its place, min_commit_ts
          lock,        \* per key
          records,     \* per key: commits and rollbacks
          resolver,    \* per transaction: what a resolver has learnt
          reader,      \* the read under way
          served       \* reads that were answered: timestamp, key, who was seen

vars == <<clock, max_ts, synced, leaders, txn, flight, lock, records, resolver, reader, served>>

Max(a, b) == IF a > b THEN a ELSE b
Primary(t) == CHOOSE k \in KeysOf[t] : \A o \in KeysOf[t] : k <= o
None == [at |-> "none", keys |-> {}, min |-> 0, way |-> "two"]
Free == [txn |-> 0, min |-> 0, async |-> FALSE]
Quiet == [at |-> "idle", ts |-> 0, key |-> 0]
Ignorant == [at |-> "none", commit |-> 0, min |-> 0]

Init ==
  /\ clock = 0 /\ max_ts = 0 /\ synced = TRUE /\ leaders = 1
  /\ txn = [t \in Txns |-> [at |-> "idle", way |-> "two", start |-> 0, floor |-> 0, mins |-> 0,
                            locked |-> {}, commit |-> 0, after |-> 0]]
  /\ flight = [t \in Txns |-> None]
  /\ lock = [k \in Keys |-> Free]
  /\ records = [k \in Keys |-> {}]
  /\ resolver = [t \in Txns |-> Ignorant]
  /\ reader = Quiet /\ served = {}

Rolled(k, t) == \E r \in records[k] : r.txn = t /\ r.commit = 0
Committed(k, t) == \E r \in records[k] : r.txn = t /\ r.commit # 0
CommitOf(k, t) == (CHOOSE r \in records[k] : r.txn = t /\ r.commit # 0).commit
Rollback(t) == [txn |-> t, commit |-> 0]
Latched(k) == \E t \in Txns : flight[t].at # "none" /\ k \in flight[t].keys
Newest(set) == CHOOSE x \in set : \A y \in set : y <= x
Replied == {t \in Txns : txn[t].at = "committed"}

(* --------------------------------- clients ------------------------------------------------------ *)

Start(t) ==
  /\ txn[t].at = "idle" /\ clock < TsMax
  /\ \E way \in WaysOf[t] :
       txn' = [txn EXCEPT ![t].at = "running", ![t].way = way, ![t].start = clock + 1]
  /\ clock' = clock + 1
  /\ UNCHANGED <<max_ts, synced, leaders, flight, lock, records, resolver, reader, served>>

(* Commit is asked for: for the shorter ways a timestamp is taken first, and the version will be  *)
(* above it. `after`: what had been acknowledged by now must be older.                            *)
Ask(t) ==
  /\ txn[t].at = "running"
  /\ LET fresh == txn[t].way # "two" /\ Broken # "no_timestamp_before_prewrite"
     IN /\ fresh => clock < TsMax
        /\ clock' = IF fresh THEN clock + 1 ELSE clock
        /\ txn' = [txn EXCEPT ![t].at = "prewriting",
                     ![t].floor = IF fresh THEN clock + 2 ELSE txn[t].start + 1,
                     ![t].after = Newest({0} \cup {txn[o].commit : o \in Replied})]
  /\ UNCHANGED <<max_ts, synced, leaders, flight, lock, records, resolver, reader, served>>

(* --------------------------------- prewrite at the leader --------------------------------------- *)

(* Another's lock, a newer version, or the own rollback refuse it. *)
Refused(t, k) == ~Committed(k, t) /\
  \/ lock[k].txn \notin {0, t}
  \/ Rolled(k, t)
  \/ /\ Broken # "no_conflict_check"
     /\ \E r \in records[k] : r.txn # t /\ r.commit > txn[t].start

Done(t, k) == lock[k].txn = t \/ Committed(k, t)

(* Into the table, for the shorter ways. A lock there stands for every version until              *)
(* min_commit_ts is known.                                                                        *)
Publish(t, keys) ==
  /\ txn[t].at = "prewriting" /\ flight[t].at = "none"
  /\ keys \subseteq KeysOf[t] \ txn[t].locked
  /\ IF txn[t].way = "one" THEN keys = KeysOf[t] ELSE Cardinality(keys) = 1
  /\ \A k \in keys : ~Latched(k)
  /\ LET way == IF synced THEN txn[t].way ELSE "two"
         early == way # "two" /\ Broken = "max_ts_before_table"
     IN flight' = [flight EXCEPT ![t] =
          [at |-> IF early THEN "outside" ELSE "published", keys |-> keys, way |-> way,
           min |-> IF early THEN Max(max_ts + 1, txn[t].floor) ELSE 0]]
  /\ UNCHANGED <<clock, max_ts, synced, leaders, txn, lock, records, resolver, reader, served>>

Enter(t) ==   \* too late: the version is chosen
  /\ flight[t].at = "outside"
  /\ flight' = [flight EXCEPT ![t].at = "published"]
  /\ UNCHANGED <<clock, max_ts, synced, leaders, txn, lock, records, resolver, reader, served>>

(* Above every read that has not seen the table. Then the keys decide, and it is proposed. The    *)
(* guard leaves the table when it is applied.                                                     *)
Decide(t) ==
  LET f == flight[t]
      min == IF f.way = "two" \/ f.min # 0 THEN f.min ELSE Max(max_ts + 1, txn[t].floor)
      at == IF Broken = "guard_dropped_before_apply" THEN "unguarded" ELSE "proposed"
  IN
  /\ f.at = "published"
  /\ IF \E k \in f.keys : Refused(t, k)
     THEN /\ flight' = [flight EXCEPT ![t] = None]
          /\ txn' = [txn EXCEPT ![t].at = "stopped"]
     ELSE /\ flight' = [flight EXCEPT ![t].at = at, ![t].min = min]
          /\ UNCHANGED txn
  /\ UNCHANGED <<clock, max_ts, synced, leaders, lock, records, resolver, reader, served>>

(* The effects of a proposal, and the answer. Where the same prewrite came before, and its answer *)
(* was lost, the lock that stands says how the transaction ends: others may have decided by it.   *)
Locks(t) == [k \in Keys |-> IF k \in flight[t].keys /\ flight[t].way # "one" /\ ~Done(t, k)
                            THEN [txn |-> t, min |-> flight[t].min, async |-> flight[t].way = "async"]
                            ELSE lock[k]]
Writes(t) == [k \in Keys |-> IF k \in flight[t].keys /\ flight[t].way = "one" /\ ~Done(t, k)
                             THEN records[k] \cup {[txn |-> t, commit |-> flight[t].min]}
                             ELSE records[k]]

Answered(t) ==
  LET f == flight[t]
      before == {CommitOf(k, t) : k \in {k \in f.keys : Committed(k, t)}}
      mins == {IF lock[k].txn = t THEN lock[k].min ELSE f.min : k \in f.keys}
      asked == f.way = "async"   \* an earlier prewrite's locks stay as they are, and count
      sure == \A k \in f.keys : IF lock[k].txn # t THEN asked
                                ELSE lock[k].async /\ (asked \/ Broken # "async_lock_forgotten")
  IN IF before # {} THEN [txn[t] EXCEPT !.at = "committed", !.commit = Newest(before)]
     ELSE IF f.way = "one" THEN [txn[t] EXCEPT !.at = "committed", !.commit = f.min]
     ELSE [txn[t] EXCEPT !.locked = @ \cup f.keys, !.mins = Max(@, Newest(mins)),
                         !.way = IF sure THEN @ ELSE "two"]

Apply(t) ==
  /\ flight[t].at \in {"proposed", "unguarded"}
  /\ lock' = Locks(t) /\ records' = Writes(t) /\ txn' = [txn EXCEPT ![t] = Answered(t)]
  /\ flight' = [flight EXCEPT ![t] = None]
  /\ UNCHANGED <<clock, max_ts, synced, leaders, resolver, reader, served>>

(* --------------------------------- decisions ---------------------------------------------------- *)

(* Async: every key is locked, so it is decided. *)
DecideAsync(t) ==
  /\ txn[t].at = "prewriting" /\ txn[t].way = "async" /\ txn[t].locked = KeysOf[t]
  /\ txn' = [txn EXCEPT ![t].at = "committed", ![t].commit = txn[t].mins]
  /\ UNCHANGED <<clock, max_ts, synced, leaders, flight, lock, records, resolver, reader, served>>

(* Two phases: the primary's commit decides. *)
TakeCommitTs(t) ==
  /\ txn[t].at = "prewriting" /\ txn[t].way = "two" /\ txn[t].locked = KeysOf[t] /\ clock < TsMax
  /\ clock' = clock + 1
  /\ txn' = [txn EXCEPT ![t].at = "committing", ![t].commit = Max(clock + 1, txn[t].mins)]
  /\ UNCHANGED <<max_ts, synced, leaders, flight, lock, records, resolver, reader, served>>

CommitPrimary(t) ==
  LET k == Primary(t) IN
  /\ txn[t].at = "committing" /\ ~Latched(k)
  /\ IF lock[k].txn = t
     THEN /\ records' = [records EXCEPT ![k] = @ \cup {[txn |-> t, commit |-> txn[t].commit]}]
          /\ lock' = [lock EXCEPT ![k] = Free]
          /\ txn' = [txn EXCEPT ![t].at = "committed"]
     ELSE /\ txn' = [txn EXCEPT ![t].at = IF Committed(k, t) THEN "committed" ELSE "stopped",
                                ![t].commit = IF Committed(k, t) THEN CommitOf(k, t) ELSE 0]
          /\ UNCHANGED <<lock, records>>
  /\ UNCHANGED <<clock, max_ts, synced, leaders, flight, resolver, reader, served>>

(* The rest, by the client; it may never come. *)
CommitRest(t, k) ==
  /\ txn[t].at = "committed" /\ lock[k].txn = t /\ ~Latched(k)
  /\ records' = [records EXCEPT ![k] = @ \cup {[txn |-> t, commit |-> txn[t].commit]}]
  /\ lock' = [lock EXCEPT ![k] = Free]
  /\ UNCHANGED <<clock, max_ts, synced, leaders, txn, flight, resolver, reader, served>>

(* --------------------------------- resolution --------------------------------------------------- *)

Learn(t, what) == resolver' = [resolver EXCEPT ![t] = what]
Outcome(commit) == [at |-> "known", commit |-> commit, min |-> 0]
PutRollback(t, k) == /\ records' = [records EXCEPT ![k] = @ \cup {Rollback(t)}]
                     /\ lock' = [lock EXCEPT ![k] = IF @.txn = t THEN Free ELSE @]

(* Somebody has met a lock of `t`, and asks its primary. *)
AskPrimary(t) ==
  LET k == Primary(t) IN
  /\ resolver[t].at \in {"none", "force"} /\ ~Latched(k)
  /\ \E o \in Keys : lock[o].txn = t
  /\ CASE Committed(k, t) -> Learn(t, Outcome(CommitOf(k, t))) /\ UNCHANGED <<lock, records>>
       [] Rolled(k, t) -> Learn(t, Outcome(0)) /\ UNCHANGED <<lock, records>>
       [] lock[k].txn = t /\ lock[k].async /\ resolver[t].at = "none" ->
            Learn(t, [at |-> "async", commit |-> 0, min |-> lock[k].min]) /\ UNCHANGED <<lock, records>>
       [] OTHER -> Learn(t, Outcome(0)) /\ PutRollback(t, k)
  /\ UNCHANGED <<clock, max_ts, synced, leaders, txn, flight, reader, served>>

(* An async commit: its other keys decide. A missing one is made to stay missing. *)
AskSecondary(t) ==
  LET others == KeysOf[t] \ {Primary(t)}
      k == CHOOSE k \in others : TRUE
  IN
  /\ resolver[t].at = "async"
  /\ IF others = {} THEN Learn(t, Outcome(resolver[t].min)) /\ UNCHANGED <<lock, records>>
     ELSE /\ ~Latched(k)
          /\ CASE Committed(k, t) -> Learn(t, Outcome(CommitOf(k, t))) /\ UNCHANGED <<lock, records>>
               [] lock[k].txn = t /\ lock[k].async ->
                    /\ Learn(t, Outcome(Max(resolver[t].min, lock[k].min)))
                    /\ UNCHANGED <<lock, records>>
               [] lock[k].txn = t /\ ~lock[k].async ->
                    Learn(t, [at |-> "force", commit |-> 0, min |-> 0]) /\ UNCHANGED <<lock, records>>
               [] OTHER -> /\ Learn(t, Outcome(0))
                           /\ IF Broken = "rollback_forgotten" THEN UNCHANGED <<lock, records>>
                              ELSE PutRollback(t, k)
  /\ UNCHANGED <<clock, max_ts, synced, leaders, txn, flight, reader, served>>

Resolve(t, k) ==
  /\ resolver[t].at = "known" /\ lock[k].txn = t /\ ~Latched(k)
  /\ records' = [records EXCEPT ![k] = @ \cup {[txn |-> t, commit |-> resolver[t].commit]}]
  /\ lock' = [lock EXCEPT ![k] = Free]
  /\ UNCHANGED <<clock, max_ts, synced, leaders, txn, flight, resolver, reader, served>>

(* --------------------------------- leaders ------------------------------------------------------ *)

(* Memory is lost: the table, max_ts. What was proposed is applied before the new leader serves,  *)
(* or never.                                                                                      *)
ChangeLeader ==
  /\ leaders < LeadersMax
  /\ leaders' = leaders + 1
  /\ max_ts' = 0 /\ synced' = (Broken = "max_ts_not_refreshed")
  /\ \E t \in Txns :
       \/ /\ flight[t].at \in {"proposed", "unguarded"}     \* one survives, without its answer
          /\ lock' = Locks(t) /\ records' = Writes(t)
       \/ UNCHANGED <<lock, records>>
  /\ flight' = [t \in Txns |-> None]
  /\ reader' = Quiet
  /\ UNCHANGED <<clock, txn, resolver, served>>

Sync ==
  /\ ~synced /\ clock < TsMax
  /\ clock' = clock + 1 /\ max_ts' = Max(max_ts, clock + 1) /\ synced' = TRUE
  /\ UNCHANGED <<leaders, txn, flight, lock, records, resolver, reader, served>>

(* --------------------------------- reads -------------------------------------------------------- *)

Announce(k) ==
  /\ reader.at = "idle" /\ Cardinality(served) < Reads /\ clock < TsMax
  /\ clock' = clock + 1
  /\ max_ts' = Max(max_ts, clock + 1)
  /\ reader' = [at |-> "look", ts |-> clock + 1, key |-> k]
  /\ UNCHANGED <<synced, leaders, txn, flight, lock, records, resolver, served>>

InTable(k, ts) ==
  \E t \in Txns : /\ flight[t].at \in {"published", "proposed"} /\ k \in flight[t].keys
                  /\ flight[t].way # "two" /\ txn[t].start <= ts /\ flight[t].min <= ts

Look ==
  /\ reader.at = "look" /\ ~InTable(reader.key, reader.ts)
  /\ reader' = [reader EXCEPT !.at = "read"]
  /\ UNCHANGED <<clock, max_ts, synced, leaders, txn, flight, lock, records, resolver, served>>

Blocks(k, ts) == lock[k].txn # 0 /\ txn[lock[k].txn].start <= ts /\ lock[k].min <= ts

SeenAt(k, ts) ==
  LET below == {r \in records[k] : r.commit # 0 /\ r.commit <= ts}
  IN IF below = {} THEN 0 ELSE (CHOOSE r \in below : \A o \in below : o.commit <= r.commit).txn

Read ==
  /\ reader.at = "read" /\ ~Blocks(reader.key, reader.ts)
  /\ served' = served \cup {[ts |-> reader.ts, key |-> reader.key,
                             seen |-> SeenAt(reader.key, reader.ts)]}
  /\ reader' = Quiet
  /\ UNCHANGED <<clock, max_ts, synced, leaders, txn, flight, lock, records, resolver>>

Next ==
  \/ \E t \in Txns :
       \/ Start(t) \/ Ask(t) \/ Enter(t) \/ Decide(t) \/ Apply(t) \/ DecideAsync(t)
       \/ TakeCommitTs(t) \/ CommitPrimary(t) \/ AskPrimary(t) \/ AskSecondary(t)
       \/ \E keys \in SUBSET Keys : keys # {} /\ Publish(t, keys)
       \/ \E k \in Keys : CommitRest(t, k) \/ Resolve(t, k)
  \/ ChangeLeader \/ Sync \/ Look \/ Read
  \/ \E k \in Keys : Announce(k)

Spec == Init /\ [][Next]_vars

(* --------------------------------- invariants --------------------------------------------------- *)

Commits(t) == {r.commit : r \in {r \in records[1] \cup records[2] : r.txn = t /\ r.commit # 0}}
              \cup (IF txn[t].at = "committed" THEN {txn[t].commit} ELSE {})
IsRolled(t) == \E k \in Keys : Rolled(k, t)

(* Not committed somewhere, or so answered, and rolled back somewhere. *)
unique_outcome == \A t \in Txns : Commits(t) = {} \/ ~IsRolled(t)
same_commit_ts == \A t \in Txns : Cardinality(Commits(t)) <= 1
commit_after_start == \A t \in Txns : \A c \in Commits(t) : c > txn[t].start
one_lock_per_key == \A k \in Keys : lock[k].txn = 0 \/
                      ~\E r \in records[k] : r.txn = lock[k].txn
(* A key is committed only with its primary, or in async commit with all keys at least locked. *)
commit_implies_primary ==
  \A t \in Txns, k \in Keys : Committed(k, t) =>
    \/ Committed(Primary(t), t)
    \/ \A o \in KeysOf[t] : Committed(o, t) \/ (lock[o].txn = t /\ lock[o].async)
(* First committer wins. *)
no_write_overlap ==
  \A k \in Keys : \A a, b \in records[k] :
    a.txn # b.txn /\ a.commit # 0 /\ b.commit # 0 =>
      a.commit <= txn[b.txn].start \/ b.commit <= txn[a.txn].start
(* A read at a timestamp has seen the newest version at or below it, and that stays so. *)
snapshot_read == \A r \in served : r.seen = SeenAt(r.key, r.ts)
(* Who asks for a commit after another's answer gets no earlier version. *)
strict == \A t \in Txns : txn[t].at = "committed" => txn[t].commit >= txn[t].after
===============================================================================
