------------------------------ MODULE LeaseRead ------------------------------
(* A leader's reads without a question (raftstore/src/lease.rs, local_read.rs, group.rs), over    *)
(* restarts, leader transfer and elections.                                                       *)
(*                                                                                                *)
(*   send (start) --> heard: no vote for `Promise` --> quorum known: lease to start + `Lease`     *)
(*   read:  find the view --> snapshot --> clock --> compare with the lease's end                 *)
(*                                                                                                *)
(* One region on three stores; a log is the list of its entries' terms. The first entry of a term *)
(* stands for all that its leader writes.                                                         *)
(* Any step may be late: messages, acknowledgements, readers. Time is one clock for all: the gap  *)
(* between `Lease` and `Promise` is what real clocks may drift.                                   *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS Nodes,      \* stores; any is as good as another
          Promise,    \* for how long a follower that heard of a leader votes for nobody
          Lease,      \* for how long a leader reads after a message's start; below Promise
          TimeMax, TermMax, RestartMax, TransferMax,
          Broken

VARIABLES now,
          term, leads, log,   \* per store; `leads`: it believes that it leads in its term
          applied,            \* entries whose effects a snapshot of the store has
          heard,              \* when its promise not to vote began
          until,              \* end of its lease; 0: no view is published
          revoked,            \* the last term in which it gave up leases for good
          round,              \* the last messages of a leader: start, log, applied, who heard
          timeout_now,        \* <<store, term>> told to start an election at once
          restarts,
          acknowledged,       \* entries that were acknowledged to clients
          reader,             \* one reader; its place and what it holds
          stale               \* a read missed what was acknowledged before it began

vars == <<now, term, leads, log, applied, heard, until, revoked, round, timeout_now, restarts,
          acknowledged, reader, stale>>

NoRound == [start |-> 0, log |-> <<>>, applied |-> 0, got |-> {}]
Idle == [at |-> "idle", store |-> "none", term |-> 0, need |-> 0, held |-> 0, seen |-> 0, clock |-> 0]
Max(a, b) == IF a > b THEN a ELSE b
IsPrefix(a, b) == Len(a) <= Len(b) /\ a = SubSeq(b, 1, Len(a))
UpToDate(n, v) == \/ log[n][Len(log[n])] > log[v][Len(log[v])]
                  \/ /\ log[n][Len(log[n])] = log[v][Len(log[v])]
                     /\ Len(log[n]) >= Len(log[v])
Quorums == {q \in SUBSET Nodes : 2 * Cardinality(q) > Cardinality(Nodes)}
Alike == Permutations(Nodes)

Init ==
  /\ now = 0
  /\ term = [n \in Nodes |-> 1]
  /\ \E first \in Nodes : leads = [n \in Nodes |-> n = first]
  /\ log = [n \in Nodes |-> <<1>>]
  /\ applied = [n \in Nodes |-> 1]
  /\ heard = [n \in Nodes |-> 0]
  /\ until = [n \in Nodes |-> 0]
  /\ revoked = [n \in Nodes |-> 0]
  /\ round = [n \in Nodes |-> NoRound]
  /\ timeout_now = {} /\ restarts = 0 /\ acknowledged = 1
  /\ reader = Idle /\ stale = FALSE

Tick == /\ now < TimeMax
        /\ now' = now + 1
        /\ UNCHANGED <<term, leads, log, applied, heard, until, revoked, round, timeout_now,
                       restarts, acknowledged, reader, stale>>

MayVote(v) == ~leads[v] /\ now >= heard[v] + Promise

(* Votes of a quorum, in one step. With a transfer the promise does not count: the old leader has *)
(* asked for this election itself.                                                                *)
Elect(n, quorum, transfer) ==
  LET next == 1 + CHOOSE t \in {term[v] : v \in quorum} : \A v \in quorum : term[v] <= t
  IN /\ n \in quorum /\ ~leads[n] /\ next <= TermMax
     /\ \A v \in quorum : UpToDate(n, v)
     /\ IF transfer THEN <<n, term[n]>> \in timeout_now ELSE \A v \in quorum : MayVote(v)
     /\ term' = [v \in Nodes |-> IF v \in quorum THEN next ELSE term[v]]
     /\ leads' = [v \in Nodes |-> IF v \in quorum THEN v = n ELSE leads[v]]
     /\ until' = [v \in Nodes |-> IF v \in quorum THEN 0 ELSE until[v]]
     /\ round' = [v \in Nodes |-> IF v \in quorum THEN NoRound ELSE round[v]]
     /\ log' = [log EXCEPT ![n] = Append(@, next)]
     /\ UNCHANGED <<now, applied, heard, revoked, timeout_now, restarts, acknowledged, reader,
                    stale>>

(* Heartbeats and entries leave; the lease that they may bring starts now. *)
Send(n) ==
  /\ leads[n]
  /\ round[n].start # now \/ round[n].log # log[n]
  /\ round' = [round EXCEPT ![n] = [start |-> now, log |-> log[n], applied |-> applied[n],
                                    got |-> {n}]]
  /\ UNCHANGED <<now, term, leads, log, applied, heard, until, revoked, timeout_now, restarts,
                 acknowledged, reader, stale>>

Hear(n, v) ==
  LET r == round[n] IN
  /\ leads[n] /\ v \notin r.got /\ r.got # {} /\ term[v] <= term[n]
  /\ round' = [round EXCEPT ![n].got = @ \cup {v}, ![v] = NoRound]
  /\ term' = [term EXCEPT ![v] = term[n]]
  /\ leads' = [leads EXCEPT ![v] = FALSE]
  /\ until' = [until EXCEPT ![v] = 0]
  /\ heard' = [heard EXCEPT ![v] = now]
  /\ log' = [log EXCEPT ![v] = IF IsPrefix(r.log, @) THEN @ ELSE r.log]
  /\ applied' = [applied EXCEPT ![v] = Max(@, r.applied)]
  /\ UNCHANGED <<now, revoked, timeout_now, restarts, acknowledged, reader, stale>>

(* The leader learns that a quorum has heard: entries are committed, applied and acknowledged. *)
Confirm(n) ==
  LET r == round[n]
      start == IF Broken = "lease_from_ack" THEN now ELSE r.start
  IN /\ leads[n] /\ r.got \in Quorums
     /\ until' = [until EXCEPT ![n] = IF revoked[n] = term[n] THEN @ ELSE Max(@, start + Lease)]
     /\ applied' = [applied EXCEPT ![n] = Max(@, Len(r.log))]
     /\ acknowledged' = Max(acknowledged, Len(r.log))
     /\ UNCHANGED <<now, term, leads, log, heard, revoked, round, timeout_now, restarts, reader,
                    stale>>

(* The leader tells a follower to start an election; from here on nothing is read by lease. *)
Transfer(n, v) ==
  /\ leads[n] /\ v # n /\ term[v] = term[n] /\ Cardinality(timeout_now) < TransferMax
  /\ timeout_now' = timeout_now \cup {<<v, term[v]>>}
  /\ IF Broken = "transfer_keeps_lease" THEN UNCHANGED <<until, revoked>>
     ELSE /\ until' = [until EXCEPT ![n] = 0]
          /\ revoked' = [revoked EXCEPT ![n] = term[n]]
  /\ UNCHANGED <<now, term, leads, log, applied, heard, round, restarts, acknowledged, reader,
                 stale>>

(* What it promised is forgotten: so it promises again. *)
Restart(n) ==
  /\ restarts < RestartMax
  /\ restarts' = restarts + 1
  /\ leads' = [leads EXCEPT ![n] = FALSE]
  /\ until' = [until EXCEPT ![n] = 0]
  /\ round' = [round EXCEPT ![n] = NoRound]
  /\ IF Broken = "vote_after_restart" THEN heard' = [heard EXCEPT ![n] = 0] /\ now >= Promise
     ELSE heard' = [heard EXCEPT ![n] = now]
  /\ reader' = IF reader.store = n THEN Idle ELSE reader
  /\ UNCHANGED <<now, term, log, applied, revoked, timeout_now, acknowledged, stale>>

(* A follower that is far behind takes in a snapshot: its content goes, and comes with the next   *)
(* message. Only the reader could tell.                                                           *)
Import(v) ==
  /\ reader.store = v /\ ~leads[v] /\ applied[v] > 0 /\ \E n \in Nodes : leads[n] /\ term[n] = term[v]
  /\ applied' = [applied EXCEPT ![v] = 0]
  /\ UNCHANGED <<now, term, leads, log, heard, until, revoked, round, timeout_now, restarts,
                 acknowledged, reader, stale>>

(* -------------------------------- a read ------------------------------------------------------ *)

Find(n) ==
  /\ reader.at = "idle" /\ leads[n] /\ until[n] > 0
  /\ reader' = [Idle EXCEPT !.at = IF Broken = "clock_before_snapshot" THEN "clock" ELSE "snapshot",
                            !.store = n, !.term = term[n], !.need = acknowledged,
                            !.held = until[n]]

TakeSnapshot ==
  /\ reader.at = "snapshot"
  /\ reader' = [reader EXCEPT !.seen = applied[reader.store],
                              !.at = IF Broken = "clock_before_snapshot" THEN "serve" ELSE "clock"]

(* The view that was found; withdrawn, it permits nothing. *)
EndOfLease == IF leads[reader.store] /\ term[reader.store] = reader.term THEN until[reader.store]
              ELSE IF Broken = "withdrawn_view_lives" THEN reader.held
              ELSE 0

ReadClock ==
  /\ reader.at = "clock"
  /\ reader' = IF now < EndOfLease
               THEN [reader EXCEPT !.at = IF Broken = "clock_before_snapshot" THEN "snapshot"
                                          ELSE "serve"]
               ELSE Idle

Serve == /\ reader.at = "serve"
         /\ stale' = (stale \/ reader.seen < reader.need)
         /\ reader' = Idle

Read == \/ /\ (\E n \in Nodes : Find(n)) \/ TakeSnapshot \/ ReadClock
           /\ UNCHANGED stale
        \/ Serve

Next ==
  \/ Tick
  \/ \E n \in Nodes : Send(n) \/ Confirm(n) \/ Restart(n) \/ Import(n)
  \/ \E n \in Nodes, v \in Nodes : n # v /\ (Hear(n, v) \/ Transfer(n, v))
  \/ \E n \in Nodes, q \in Quorums, t \in BOOLEAN : Elect(n, q, t)
  \/ /\ Read
     /\ UNCHANGED <<now, term, leads, log, applied, heard, until, revoked, round, timeout_now,
                    restarts, acknowledged>>

Spec == Init /\ [][Next]_vars

(* Every read sees what was acknowledged before it began. *)
check_register == ~stale
(* At most one store may read by lease. *)
check_lease == \A n, m \in Nodes : leads[n] /\ leads[m] /\ now < until[n] /\ now < until[m] => n = m
(* One leader in a term. *)
leads_in_term == \A n, m \in Nodes : leads[n] /\ leads[m] /\ term[n] = term[m] => n = m
==============================================================================
