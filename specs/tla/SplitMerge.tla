------------------------------ MODULE SplitMerge ------------------------------
(* Epochs of a region that splits, and of its child that is merged back, gives up, and is merged  *)
(* again (raftstore/src/apply.rs, merge.rs).                                                      *)
(*                                                                                                *)
(*   parent {1, 2} --split--> child {1} + parent {2}                                              *)
(*   child --prepare--> takes no writes --commit (in the parent's log)--> parent {1, 2}           *)
(*                  \--rollback, if the parent has changed meanwhile--> child {1}                 *)
(*                                                                                                *)
(* Consensus is taken for granted: a log is what is committed. Each store applies each log at its *)
(* own pace, so any store may be far behind, and whoever proposes may know an old description.    *)
(* What an entry does is decided when it is applied, by epochs: so alike on every store. A merge  *)
(* carries the child's entries, so a store may apply those that it has not received.              *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS Stores, LogMax, WritesMax, Broken

Parent == 1
Child == 2
Regions == {Parent, Child}
Keys == {1, 2}
Leader(r) == IF r = Parent THEN 2 ELSE 1     \* the store that answers clients and reads by lease

VARIABLES log,         \* per region: committed entries
          applied,     \* per store and region: how many of them
          region,      \* per store and region: range, version, state, index of its `prepare`
          data,        \* per store and key: the writes that it holds, in order
          writes,      \* writes proposed so far
          acknowledged, \* per key: writes that were answered
          lease,       \* the child's leader may read without a question
          lost         \* an impossible entry, or a read that missed something acknowledged

vars == <<log, applied, region, data, writes, acknowledged, lease, lost>>

Absent == [range |-> {}, version |-> 0, state |-> "absent", prepared |-> 0, target |-> 0]

Init ==
  /\ log = [r \in Regions |-> <<>>]
  /\ applied = [s \in Stores |-> [r \in Regions |-> 0]]
  /\ region = [s \in Stores |-> [r \in Regions |->
       IF r = Parent THEN [Absent EXCEPT !.range = Keys, !.version = 1, !.state = "normal"]
       ELSE Absent]]
  /\ data = [s \in Stores |-> [k \in Keys |-> <<>>]]
  /\ writes = 0 /\ acknowledged = [k \in Keys |-> {}]
  /\ lease = TRUE /\ lost = FALSE

Entry == [kind |-> "none", version |-> 0, key |-> 0, id |-> 0, index |-> 0]

Known(s, r, state) == region[s][r].state = state
Room(r) == Len(log[r]) < LogMax
Propose(r, entry) == /\ Room(r)
                     /\ log' = [log EXCEPT ![r] = Append(@, entry)]
                     /\ UNCHANGED <<applied, region, data, acknowledged, lost>>

(* --------------------------------- proposals --------------------------------------------------- *)

(* Under the description of any store, however old. *)
Write(s, r, k) ==
  /\ writes < WritesMax /\ Known(s, r, "normal") /\ k \in region[s][r].range
  /\ Propose(r, [Entry EXCEPT !.kind = "write", !.version = region[s][r].version, !.key = k,
                              !.id = writes + 1])
  /\ writes' = writes + 1 /\ UNCHANGED lease

Split(s) ==
  /\ region[s][Parent].version = 1 /\ \A i \in DOMAIN log[Parent] : log[Parent][i].kind # "split"
  /\ Propose(Parent, [Entry EXCEPT !.kind = "split", !.version = 1])
  /\ UNCHANGED <<writes, lease>>

(* The parent changes for another reason: replicas, another split. *)
Change(s) ==
  /\ region[s][Parent].version > 1
  /\ \A i \in DOMAIN log[Parent] : log[Parent][i].kind # "change"
  /\ Propose(Parent, [Entry EXCEPT !.kind = "change", !.version = region[s][Parent].version])
  /\ UNCHANGED <<writes, lease>>

(* Names the parent's version that it is meant for. When it is committed the lease ends, before   *)
(* anybody is told.                                                                               *)
Prepare(s) ==
  /\ Known(s, Child, "normal") /\ region[s][Parent].version > 1
  /\ Propose(Child, [Entry EXCEPT !.kind = "prepare", !.version = region[s][Child].version,
                                  !.index = region[s][Parent].version])
  /\ lease' = (lease /\ Broken = "lease_kept_over_merge")
  /\ UNCHANGED writes

Commit(s) ==
  /\ Known(s, Child, "merging") /\ region[s][Parent].version = region[s][Child].target
  /\ Propose(Parent, [Entry EXCEPT !.kind = "commit", !.version = region[s][Parent].version,
                                   !.id = region[s][Child].version,
                                   !.index = region[s][Child].prepared])
  /\ UNCHANGED <<writes, lease>>

(* Only when no store can commit the merge any more: the parent has a newer version. *)
Rollback(s) ==
  /\ Known(s, Child, "merging")
  /\ \/ region[s][Parent].version > region[s][Child].target
     \/ Broken = "rollback_while_commit_possible"
  /\ Propose(Child, [Entry EXCEPT !.kind = "rollback", !.version = region[s][Child].version])
  /\ UNCHANGED <<writes, lease>>

(* --------------------------------- apply ------------------------------------------------------- *)

Max(a, b) == IF a > b THEN a ELSE b

(* What one entry makes of a store: its regions and data. *)
Fits(here, entry) == here.version = entry.version \/ Broken = "epoch_not_checked"

Applied(at, r, index) ==
  LET entry == log[r][index]
      here == at.region[r]
      next == [at EXCEPT !.applied[r] = index]
  IN CASE ~Fits(here, entry) -> next
       [] entry.kind = "write" -> [next EXCEPT !.data[entry.key] = Append(@, entry.id)]
       [] entry.kind = "split" ->
            [next EXCEPT !.region[Parent] = [@ EXCEPT !.range = {2}, !.version = 2],
                         !.region[Child] = [Absent EXCEPT !.range = {1}, !.version = 2,
                                                          !.state = "normal"]]
       [] entry.kind = "change" -> [next EXCEPT !.region[Parent].version = @ + 1]
       [] entry.kind = "prepare" ->
            [next EXCEPT !.region[Child] = [@ EXCEPT !.state = "merging", !.version = @ + 1,
                                                     !.prepared = index, !.target = entry.index]]
       [] entry.kind = "rollback" ->
            [next EXCEPT !.region[Child] = [@ EXCEPT !.state = "normal", !.version = @ + 1,
                                                     !.prepared = 0, !.target = 0]]
       [] OTHER -> next

RECURSIVE CatchUp(_, _)
CatchUp(at, index) ==
  IF at.applied[Child] >= index THEN at
  ELSE CatchUp(Applied(at, Child, at.applied[Child] + 1), index)

(* The child is brought to its `prepare`, which must be the very one that the merge names. *)
Merged(at, index) ==
  LET entry == log[Parent][index]
      stale == Broken \in {"commit_index_not_matched", "child_not_caught_up"}
      ready == IF /\ stale /\ at.region[Child].state = "merging" THEN at
               ELSE IF Broken = "child_not_caught_up" THEN at
               ELSE CatchUp(at, entry.index)
      child == ready.region[Child]
      parent == ready.region[Parent]
  IN [ready EXCEPT
       !.applied[Parent] = index,
       !.region[Parent] = [@ EXCEPT !.range = @ \cup child.range,
                                    !.version = Max(parent.version, child.version) + 1],
       !.region[Child] = [@ EXCEPT !.state = "gone"]]

Here(s) == [applied |-> applied[s], region |-> region[s], data |-> data[s]]

(* Is the child where the merge needs it? Else the store cannot go on: replicas have parted. *)
CanMerge(at, index) ==
  LET child == CatchUp(at, log[Parent][index].index).region[Child]
  IN \/ child.state = "merging" /\ child.prepared = log[Parent][index].index
     \/ Broken \in {"commit_index_not_matched", "child_not_caught_up"}

Apply(s, r) ==
  LET index == applied[s][r] + 1
      entry == log[r][index]
      merge == entry.kind = "commit" /\ Fits(region[s][r], entry)
      at == IF merge THEN Merged(Here(s), index) ELSE Applied(Here(s), r, index)
      written == entry.kind = "write" /\ Fits(region[s][r], entry)
  IN /\ index <= Len(log[r]) /\ region[s][r].state \notin {"absent", "gone"}
     /\ IF merge /\ ~CanMerge(Here(s), index)
        THEN lost' = TRUE /\ UNCHANGED <<applied, region, data, acknowledged>>
        ELSE /\ applied' = [applied EXCEPT ![s] = at.applied]
             /\ region' = [region EXCEPT ![s] = at.region]
             /\ data' = [data EXCEPT ![s] = at.data]
             /\ acknowledged' = IF written /\ s = Leader(r)
                                THEN [acknowledged EXCEPT ![entry.key] = @ \cup {entry.id}]
                                ELSE acknowledged
             /\ UNCHANGED lost
     /\ UNCHANGED <<log, writes, lease>>

(* The child's leader reads its key by lease. *)
Read ==
  LET s == Leader(Child) IN
  /\ lease /\ Known(s, Child, "normal") /\ ~lost
  /\ lost' = ~(\A id \in acknowledged[1] : \E i \in DOMAIN data[s][1] : data[s][1][i] = id)
  /\ lost'
  /\ UNCHANGED <<log, applied, region, data, writes, acknowledged, lease>>

Next ==
  \/ \E s \in Stores : Split(s) \/ Change(s) \/ Prepare(s) \/ Commit(s) \/ Rollback(s)
  \/ \E s \in Stores, r \in Regions, k \in Keys : Write(s, r, k)
  \/ \E s \in Stores, r \in Regions : Apply(s, r)
  \/ Read

Spec == Init /\ [][Next]_vars

(* --------------------------------- invariants --------------------------------------------------- *)

Live(s, r) == region[s][r].state \in {"normal", "merging"}

(* Replicas at one index of a region are the same: description and content. *)
replicas_equal ==
  \A s, t \in Stores, r \in Regions :
    Live(s, r) /\ Live(t, r) /\ applied[s][r] = applied[t][r] =>
      /\ region[s][r] = region[t][r]
      /\ \A k \in region[s][r].range : data[s][k] = data[t][k]

(* The newest descriptions: every key is in one region. *)
Newest(r) ==
  CHOOSE d \in {region[s][r] : s \in Stores} :
    \A s \in Stores : \/ region[s][r].version < d.version
                      \/ region[s][r].version = d.version /\ (region[s][r].state = "gone" => d.state = "gone")
tile ==
  \A k \in Keys :
    Cardinality({r \in Regions : /\ Newest(r).state \in {"normal", "merging"}
                                 /\ k \in Newest(r).range}) = 1

(* Whoever has applied all of a region's log holds every write that was acknowledged. *)
no_write_lost ==
  \A s \in Stores, r \in Regions :
    Known(s, r, "normal") /\ applied[s][r] = Len(log[r]) =>
      \A k \in region[s][r].range : \A id \in acknowledged[k] :
        \E i \in DOMAIN data[s][k] : data[s][k][i] = id

(* Reads by lease see what was acknowledged, and no replica meets an entry that it cannot apply. *)
check_register == ~lost
===============================================================================
