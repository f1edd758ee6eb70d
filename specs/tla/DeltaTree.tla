------------------------------ MODULE DeltaTree ------------------------------
(* One segment of a column store: rows are applied to its delta, a merge folds the delta into a   *)
(* new stable file beside them, snapshots read, the process ends anywhere (deltatree/src/tree:    *)
(* mod.rs `merge`, segment.rs `link`, `seal`, `hand_over`, merge.rs `survivors`, overlay.rs).     *)
(*                                                                                                *)
(*   apply --> delta (a log of numbered operations) --> sync: log and mark durable                *)
(*   merge:  seal --> write the file --> file durable --> manifest --> hand over what came since  *)
(*   crash:  the manifest's file + durable operations after `merged`; the log replays from the    *)
(*           mark                                                                                 *)
(*                                                                                                *)
(* A row of one handle: a version (its commit timestamp), whether it deletes, and `until`, the    *)
(* version that ends it. A read at ts sees version <= ts < until. What must be seen is said by    *)
(* the applied log alone: the newest version at or below ts.                                      *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS VersionMax, OpsMax, MergesMax, CrashesMax, Snapshots, Broken

VARIABLES log,        \* what was ever applied, in order: rows and clears
          applied,    \* how much of it the segment has; falls only by a crash
          mark,       \* durable: the log is replayed from here
          entries,    \* <<seq, op>> since the beginning, as memory has them
          synced,     \* how many of them are durable
          last,       \* the last seq
          memory,     \* stable rows that readers use, and the seq that they include
          disk,       \* what the manifest names
          safe_point, \* new reads are at or above it
          merge,      \* a merge under way
          snapshot,   \* one reader's view
          merges, crashes

vars == <<log, applied, mark, entries, synced, last, memory, disk, safe_point, merge, snapshot,
          merges, crashes>>

Forever == VersionMax + 1
Versions == 1..VersionMax
Ops == [kind : {"row"}, version : Versions, deleted : BOOLEAN]
       \cup {[kind |-> "clear", version |-> 0, deleted |-> FALSE]}
Rows == SUBSET [version : Versions, deleted : BOOLEAN, until : 1..Forever]
Idle == [at |-> "idle", sealed |-> {}, upto |-> 0]
NoSnapshot == [open |-> FALSE, ts |-> 0, rows |-> {}, must |-> {}]
Min(set) == CHOOSE x \in set : \A y \in set : x <= y
Max(set) == CHOOSE x \in set : \A y \in set : x >= y

(* --------------------------------- what a segment holds ---------------------------------------- *)

(* `link`: the version before ends where this one begins; the same version again changes nothing. *)
Link(rows, op) ==
  LET older == {r.version : r \in {r \in rows : r.version < op.version}}
      newer == {r.version : r \in {r \in rows : r.version > op.version}}
      ended == {IF older # {} /\ r.version = Max(older) /\ Broken # "mask_bit_not_cleared"
                THEN [r EXCEPT !.until = op.version] ELSE r : r \in rows}
      until == IF newer = {} THEN Forever ELSE Min(newer)
      row == [version |-> op.version, deleted |-> op.deleted, until |-> until]
  IN IF \E r \in rows : r.version = op.version THEN rows ELSE ended \cup {row}

Put(rows, op) == IF op.kind = "clear" THEN {} ELSE Link(rows, op)

RECURSIVE Fold(_, _, _)
Fold(rows, list, after) ==   \* the operations of `list` whose number is above `after`
  IF list = <<>> THEN rows
  ELSE LET entry == Head(list)
           next == IF entry.seq > after THEN Put(rows, entry.op) ELSE rows
       IN Fold(next, Tail(list), after)

View == Fold(memory.rows, entries, memory.upto)

(* What a read at `ts` sees: versions that do not delete. *)
Seen(rows, ts) == {r.version : r \in {r \in rows : r.version <= ts /\ ts < r.until /\ ~r.deleted}}

(* `survivors`: from the newest at or below the safe point on; that one only if it is a row. *)
Survivors(rows, safe) ==
  LET below == {r \in rows : r.version <= safe}
      newest == CHOOSE r \in below : \A o \in below : o.version <= r.version
  IN IF below = {} THEN rows
     ELSE (rows \ below) \cup (IF newest.deleted THEN {} ELSE {newest})

(* --------------------------------- what must be seen ------------------------------------------- *)


Truth(list, ts) ==
  LET clears == {i \in DOMAIN list : list[i].kind = "clear"}
      from == IF clears = {} THEN 0 ELSE Max(clears)
      rows == {list[i] : i \in {i \in DOMAIN list : i > from /\ list[i].version <= ts}}
      newest == CHOOSE r \in rows : \A o \in rows : o.version <= r.version
  IN IF rows = {} \/ newest.deleted THEN {} ELSE {newest.version}

Init ==
  /\ log = <<>> /\ applied = 0 /\ mark = 0
  /\ entries = <<>> /\ synced = 0 /\ last = 0
  /\ memory = [rows |-> {}, upto |-> 0] /\ disk = [rows |-> {}, upto |-> 0]
  /\ safe_point = 0 /\ merge = Idle /\ snapshot = NoSnapshot
  /\ merges = 0 /\ crashes = 0

CaughtUp == applied = Len(log)
Enter(op) == /\ last' = last + 1
             /\ entries' = Append(entries, [seq |-> last + 1, op |-> op])
             /\ applied' = applied + 1

(* A log commits to a handle in the order of versions, above the safe point. After a clear the    *)
(* content of a moved region may come again.                                                      *)
LastClear == Max({0} \cup {i \in DOMAIN log : log[i].kind = "clear"})
Apply(op) ==
  /\ CaughtUp /\ Len(log) < OpsMax
  /\ op.kind = "row" => /\ op.version > safe_point
                        /\ \A i \in DOMAIN log : i > LastClear => log[i].version < op.version
  /\ log' = Append(log, op)
  /\ Enter(op)
  /\ UNCHANGED <<mark, synced, memory, disk, safe_point, merge, snapshot, merges, crashes>>

Replay ==
  /\ applied < Len(log)
  /\ Enter(log[applied + 1])
  /\ UNCHANGED <<log, mark, synced, memory, disk, safe_point, merge, snapshot, merges,
                 crashes>>

Sync ==
  /\ synced < Len(entries) /\ crashes < CrashesMax   \* else it changes nothing
  /\ synced' = Len(entries) /\ mark' = applied
  /\ UNCHANGED <<log, applied, entries, last, memory, disk, safe_point, merge, snapshot, merges,
                 crashes>>

RaiseSafePoint ==
  /\ safe_point < VersionMax
  /\ safe_point' = safe_point + 1
  /\ UNCHANGED <<log, applied, mark, entries, synced, last, memory, disk, merge, snapshot, merges,
                 crashes>>

(* --------------------------------- merge ------------------------------------------------------- *)

(* Versions that no read can see any more may go, or stay. *)
Seal ==
  /\ merge.at = "idle" /\ merges < MergesMax /\ View # {}
  /\ \E safe \in IF Broken = "safe_point_ignored" THEN {VersionMax} ELSE {0, safe_point} :
       merge' = [at |-> "file", sealed |-> Survivors(View, safe), upto |-> last]
  /\ merges' = merges + 1
  /\ UNCHANGED <<log, applied, mark, entries, synced, last, memory, disk, safe_point, snapshot,
                 crashes>>

(* The file is written and durable; then the manifest names it. *)
StoreManifest ==
  /\ merge.at = "file"
  /\ disk' = [rows |-> merge.sealed,
              upto |-> IF Broken = "merged_after_seal" THEN last ELSE merge.upto]
  /\ merge' = [merge EXCEPT !.at = "hand over"]
  /\ UNCHANGED <<log, applied, mark, entries, synced, last, memory, safe_point, snapshot, merges,
                 crashes>>

(* A file that is named before it is durable is empty after a crash. *)
EarlyManifest ==
  /\ Broken = "manifest_before_file" /\ merge.at = "file"
  /\ disk' = [rows |-> {}, upto |-> merge.upto]
  /\ UNCHANGED <<log, applied, mark, entries, synced, last, memory, safe_point, merge, snapshot,
                 merges, crashes>>

HandOver ==
  /\ merge.at = "hand over"
  /\ memory' = [rows |-> merge.sealed,
                upto |-> IF Broken = "merge_loses_late_rows" THEN last ELSE merge.upto]
  /\ merge' = Idle
  /\ UNCHANGED <<log, applied, mark, entries, synced, last, disk, safe_point, snapshot, merges,
                 crashes>>

(* --------------------------------- reads ------------------------------------------------------- *)

(* A learner read waits until everything it must see is applied, so after a crash for the replay. *)
(* The snapshot stays open: what it shows must stay.                                              *)
Open ==
  /\ Snapshots /\ ~snapshot.open /\ CaughtUp /\ safe_point > 0
  /\ snapshot' = [open |-> TRUE, ts |-> safe_point, rows |-> View, must |-> Truth(log, safe_point)]
  /\ UNCHANGED <<log, applied, mark, entries, synced, last, memory, disk, safe_point, merge,
                 merges, crashes>>

Crash ==
  /\ crashes < CrashesMax
  /\ crashes' = crashes + 1
  /\ applied' = mark
  /\ entries' = SubSeq(entries, 1, synced)
  /\ last' = Max({disk.upto} \cup {entries[i].seq : i \in 1..synced})
  /\ memory' = disk
  /\ merge' = Idle /\ snapshot' = NoSnapshot
  /\ UNCHANGED <<log, mark, synced, disk, safe_point, merges>>

Next ==
  \/ \E op \in Ops : Apply(op)
  \/ Replay \/ Sync \/ RaiseSafePoint \/ Seal \/ StoreManifest \/ EarlyManifest
  \/ HandOver
  \/ Open \/ Crash

Spec == Init /\ [][Next]_vars

(* Every read sees the newest version at or below its timestamp, before, during and after merges, *)
(* and what a snapshot shows stays as it was.                                                     *)
snapshot_read ==
  /\ CaughtUp => \A ts \in Versions : ts >= safe_point => Seen(View, ts) = Truth(log, ts)
  /\ snapshot.open =>
       LET rows == IF Broken = "view_changed_under_snapshot" THEN View ELSE snapshot.rows
       IN Seen(rows, snapshot.ts) = snapshot.must
(* No two versions of a handle are visible at once; each ends where the next begins. *)
one_row_per_handle ==
  \A ts \in Versions : Cardinality({r \in View : r.version <= ts /\ ts < r.until}) <= 1
==============================================================================
