------------------------------- MODULE Oracle -------------------------------
(* The timestamp oracle over changes of its leader (tso/src/local.rs, window.rs, bound.rs).       *)
(*                                                                                                *)
(*   load the bound --> next := max(bound, clock) --> save a bound above --> take --> may I still *)
(*                                                                            serve? --> answer   *)
(*                                                                                                *)
(* Leaders are elected at any time; the one before may be paused and believe that it still leads. *)
(* Wall clocks jump. A save can be made durable only by the leader; its answer may be lost with   *)
(* the process. Nothing is assumed of time: what holds here holds however long a step takes.      *)
EXTENDS Naturals

CONSTANTS Nodes,      \* members that can be elected
          TsMax,      \* timestamps and clocks are 1..TsMax
          Window,     \* how far a saved bound runs ahead
          TermMax,    \* elections
          Broken      \* a deliberate mistake, or "none"

VARIABLES leader,     \* who may write the bound and serve; 0 before the first election
          terms,      \* elections so far
          saved,      \* durable: every timestamp that was given out is below it
          node,       \* of each member: what its process believes
          answered,   \* timestamps that clients hold
          out_of_order \* a timestamp came twice, or below one that was held when it was asked for

vars == <<leader, terms, saved, node, answered, out_of_order>>

None == 0
Off == [on |-> FALSE, next |-> 0, bound |-> 0, taken |-> None, floor |-> 0, sure |-> FALSE]
Max(a, b) == IF a > b THEN a ELSE b
Greatest == IF answered = {} THEN 0 ELSE CHOOSE ts \in answered : \A other \in answered : other <= ts

Init == /\ leader = 0 /\ terms = 0 /\ saved = 1
        /\ node = [n \in Nodes |-> Off]
        /\ answered = {} /\ out_of_order = FALSE

(* A new leader continues above everything that was saved; its clock says anything. *)
Elect(n, clock) ==
  /\ terms < TermMax
  /\ leader' = n /\ terms' = terms + 1
  /\ LET next == IF Broken = "trust_clock" THEN clock ELSE Max(saved, clock)
         bound == IF Broken = "serve_before_save" THEN next + Window ELSE saved
     IN node' = [node EXCEPT ![n] = [Off EXCEPT !.on = TRUE, !.next = next, !.bound = bound]]
  /\ UNCHANGED <<saved, answered, out_of_order>>

(* The bound is saved one window ahead; only then does this process serve below it. *)
Save(n) ==
  /\ node[n].on
  /\ leader = n \/ Broken = "deposed_leader_saves"
  /\ LET bound == node[n].next + Window
     IN /\ bound <= TsMax /\ bound # saved
        /\ bound > node[n].bound \/ Broken = "serve_before_save"
        /\ saved' = bound
        /\ node' = [node EXCEPT ![n].bound = Max(@, bound)]
  /\ UNCHANGED <<leader, terms, answered, out_of_order>>

(* As Save, but the process ends before it hears of it. *)
SaveAndDie(n) ==
  /\ node[n].on /\ leader = n
  /\ node[n].next + Window <= TsMax
  /\ saved' = Max(saved, node[n].next + Window)
  /\ node' = [node EXCEPT ![n] = Off]
  /\ UNCHANGED <<leader, terms, answered, out_of_order>>

Die(n) ==
  /\ node[n].on
  /\ node' = [node EXCEPT ![n] = Off]
  /\ UNCHANGED <<leader, terms, saved, answered, out_of_order>>

(* A request comes; the counter follows the clock, never back, and gives one below the bound. *)
Take(n, clock) ==
  /\ node[n].on /\ node[n].taken = None
  /\ LET ts == Max(node[n].next, clock)
     IN /\ ts < node[n].bound
        /\ node' = [node EXCEPT ![n].taken = ts, ![n].next = ts + 1, ![n].floor = Greatest,
                                ![n].sure = FALSE]
  /\ UNCHANGED <<leader, terms, saved, answered, out_of_order>>

(* `may_serve`: asked after the timestamp was taken. *)
Check(n) ==
  /\ node[n].taken # None /\ ~node[n].sure
  /\ IF leader = n \/ Broken = "lease_not_checked"
     THEN node' = [node EXCEPT ![n].sure = TRUE]
     ELSE node' = [node EXCEPT ![n] = Off]
  /\ UNCHANGED <<leader, terms, saved, answered, out_of_order>>

(* The answer may arrive late: others have been served meanwhile. *)
Answer(n) ==
  /\ node[n].sure
  /\ LET ts == node[n].taken
     IN /\ out_of_order' = (out_of_order \/ ts \in answered \/ ts <= node[n].floor)
        /\ answered' = answered \cup {ts}
  /\ node' = [node EXCEPT ![n].taken = None, ![n].sure = FALSE, ![n].floor = 0]
  /\ UNCHANGED <<leader, terms, saved>>

Next == \E n \in Nodes :
  \/ \E clock \in 1..TsMax : Elect(n, clock) \/ Take(n, clock)
  \/ Save(n) \/ SaveAndDie(n) \/ Die(n) \/ Check(n) \/ Answer(n)

Spec == Init /\ [][Next]_vars

ts_monotone == ~out_of_order
served_below_saved == \A ts \in answered : ts < saved
=============================================================================
