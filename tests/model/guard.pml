/* The promise of vmguard as a model for Spin: hosts, one NFSv4 server, one VM of some disks. Every order of events.
 *
 * Each protection, each kind of server and each fault is a switch (-DNAME=VALUE); tests/model/switches.py says which
 * must hold and which must be violated. A step of a process is one atomic guarded command, so that a process has one
 * place in its code and all that matters is in the variables. Time is counted in whole seconds: ages end at LEASE + 1.
 *
 * Checked: at most one VM runs (RUNS); no write of an older claim lands behind a newer one (in land).
 */

/* the size, and how often what may happen */
#ifndef HOSTS
#define HOSTS 2
#endif
#ifndef DISKS
#define DISKS 1
#endif
#ifndef CUTS
#define CUTS 1
#endif
#ifndef REBOOTS
#define REBOOTS 1
#endif
#ifndef STARTS
#define STARTS 1
#endif
#ifndef DEATHS          /* of a daemon; the next one starts within the second */
#define DEATHS 0
#endif
#ifndef STOPS           /* a daemon is stopped, and stays so */
#define STOPS 0
#endif
#ifndef REVOKES         /* the server's admin takes the lock of the first disk away */
#define REVOKES 0
#endif
#ifndef MIGRATIONS
#define MIGRATIONS 0
#endif
#ifndef WRITES          /* the guest's writes are followed */
#define WRITES 0
#endif
#ifndef RUNS            /* two VMs that run are a violation */
#define RUNS 1
#endif

/* the server */
#define DUTIFUL 0       /* its recovery database is what it was before the reboot */
#define LAGGING 1       /* ... is older: it has each host that ever was a client */
#define FORGETTING 2    /* ... is empty, so there is no grace period */
#ifndef DATABASE
#define DATABASE DUTIFUL
#endif
#define LEASE 4
#ifndef GRACE
#define GRACE LEASE
#endif
#ifndef BY_HAND         /* the admin may end the grace period */
#define BY_HAND 0
#endif
#ifndef COURTEOUS       /* a client whose lease is over is dropped only when somebody wants its lock */
#define COURTEOUS 1
#endif
#ifndef TORN            /* it may reboot between a client's new session and its look at its locks */
#define TORN 1
#endif
#ifndef DELEGATION      /* a lock stays in its host's client, under a delegation */
#define DELEGATION 0
#endif
#ifndef RECALL          /* another host's open calls it back */
#define RECALL 1
#endif

/* the guard */
#ifndef FREEZE
#define FREEZE 1
#endif
#ifndef FREEZE_AT       /* age of the lease; the freeze is done within one second */
#define FREEZE_AT 2
#endif
#ifndef SLOW_CLOCK      /* seconds by which the clock of host 0 falls behind the server's in one lease */
#define SLOW_CLOCK 0
#endif
#ifndef AT_RISK_FENCE   /* on_at_risk: fence, with the queue cut by force */
#define AT_RISK_FENCE 0
#endif
#ifndef PIN             /* the lock is on the description that does the I/O */
#define PIN 1
#endif
#ifndef ONE_STEP        /* it is moved there in one step: there is a moment without */
#define ONE_STEP 0
#endif
#ifndef COPY            /* a copy of the description stays open behind a dead QEMU */
#define COPY 1
#endif
#ifndef TOKEN           /* the epoch of the owner record is read */
#define TOKEN 1
#endif
#ifndef TAKEN_OVER      /* also for a VM that an earlier daemon froze */
#define TAKEN_OVER 1
#endif
#ifndef ALL_OR_NONE     /* a VM starts with all of its disks */
#define ALL_OR_NONE 1
#endif
#ifndef PROOF           /* a lock is released when QEMU is dead and nothing is queued; else when a hook says so */
#define PROOF 1
#endif
#ifndef RESERVE         /* a migration's target reserves the disks */
#define RESERVE 1
#endif

/* sessions of a client; locks on its side; a VM */
#define GOOD 0
#define DROPPED 1
#define REBOOTED 2
#define MAY_RECLAIM 3
#define MAY_NOT 4
#define NO_LOCK 0
#define HELD 1
#define LOST 2
#define NO_VM 0
#define RUNNING 1
#define FROZEN 2
#define DEAD 3

#define AT(h, d) ((h) * DISKS + (d))

/* the server: who has each disk and the reservation (host + 1), the newest claim in each owner record */
bool up = true;
byte grace;
byte holder[DISKS], newest[DISKS];
bool delegated;
byte reserved;
byte seen[HOSTS];
bool database[HOSTS], may[HOSTS];
/* each host */
bool cut[HOSTS];
byte session[HOSTS];
byte lock[HOSTS * DISKS], claim[HOSTS * DISKS];
bool queued[HOSTS * DISKS];
byte vm[HOSTS];
byte age[HOSTS];        /* seconds since the last answered request was sent, by its own clock */
bool due[HOSTS];        /* the owner record must be read before the VM may go on */
byte order[HOSTS];      /* 1: to freeze; 2: for a second now */
bool stopped[HOSTS];
bool bare[HOSTS];       /* its lock is being moved */
byte target;            /* of a migration (host + 1) */
bool gone_over;         /* the guest runs there, and the disks are not locked there yet */
byte behind;            /* seconds that the clock of host 0 has lost */
/* what may still happen */
byte cuts = CUTS, reboots = REBOOTS, starts = STARTS, deaths = DEATHS, stops = STOPS, migrations = MIGRATIONS,
    revokes = REVOKES;

hidden byte i, d, n, yes;

#define REACHES(h) (up && !cut[h] && session[h] == GOOD)
#define OVER(h) (seen[h] > LEASE)
#define EACH(x, from, to, body) x = from; do :: x < (to) -> body; x++ :: else -> x = 0; break od; skip

inline check() {        /* at most one VM runs */
    n = 0; EACH(i, 0, HOSTS, n = n + (vm[i] == RUNNING));
    assert(!RUNS || n <= 1)
}

inline lost_one(h) {    /* yes: the client knows that one of its locks is lost */
    yes = false; EACH(d, 0, DISKS, yes = yes || lock[AT(h, d)] == LOST)
}

inline claimed_since(h) {
    yes = false; EACH(d, 0, DISKS, yes = yes || claim[AT(h, d)] < newest[d])
}

inline drop(h) {        /* the server ends a client's lease */
    EACH(d, 0, DISKS, if :: holder[d] == h + 1 -> holder[d] = 0 :: else fi);
    if :: reserved == h + 1 -> reserved = 0 :: else fi;
    database[h] = false; session[h] = DROPPED
}

inline forget(h) {      /* nothing of the VM is left on this host */
    EACH(d, 0, DISKS, lock[AT(h, d)] = NO_LOCK; claim[AT(h, d)] = 0; queued[AT(h, d)] = false);
    vm[h] = NO_VM; age[h] = 0; due[h] = false; order[h] = 0; bare[h] = false
}

inline take(h) {        /* the locks are granted; the records get their next epoch */
    EACH(d, 0, DISKS,
        if :: holder[d] == 0 || holder[d] == h + 1 || !ALL_OR_NONE && d == 0 ->
            holder[d] = h + 1; newest[d]++
           :: else
        fi;
        lock[AT(h, d)] = HELD; claim[AT(h, d)] = newest[d]);
    seen[h] = 0; age[h] = 0; due[h] = false; database[h] = true; vm[h] = RUNNING;
    delegated = DELEGATION
}

inline start(h) {       /* drop whose lease is over; start if nobody has a disk */
    EACH(n, 0, HOSTS, if :: n != h && OVER(n) -> drop(n) :: else fi);
    if :: delegated && holder[0] && RECALL && up && !cut[holder[0] - 1] -> delegated = false  /* its lock is sent */
       :: delegated && holder[0] && !RECALL -> holder[0] = 0; delegated = false
       :: else
    fi;
    yes = (reserved == 0);
    EACH(d, 0, DISKS, yes = yes && (holder[d] == 0 || !ALL_OR_NONE && d > 0));
    if :: yes -> take(h); starts--; check() :: else fi
}

inline recover(h) {     /* the client looks at its locks: also a lost one is reclaimed, and stays lost to its I/O */
    EACH(d, 0, DISKS,
        if :: lock[AT(h, d)] != NO_LOCK && session[h] == MAY_RECLAIM && grace > 0 && holder[d] == 0 -> holder[d] = h + 1
           :: lock[AT(h, d)] != NO_LOCK && !(session[h] == MAY_RECLAIM && grace > 0 && holder[d] == 0) ->
                lock[AT(h, d)] = LOST
           :: else
        fi);
    session[h] = GOOD; seen[h] = 0
}

inline new_session(h) {
    session[h] = (session[h] == REBOOTED && grace > 0 && may[h] -> MAY_RECLAIM : MAY_NOT);
    database[h] = true; seen[h] = 0; due[h] = (vm[h] != NO_VM && !stopped[h]);
    if :: !TORN -> recover(h) :: else fi
}

inline verdict(h) {     /* a probe is answered: every lock is KEPT, or the VM is killed */
    seen[h] = 0; lost_one(h);
    if :: !yes && TOKEN && due[h] -> claimed_since(h) :: else fi;
    if :: yes -> vm[h] = DEAD; order[h] = 0
       :: else -> due[h] = false; age[h] = 0; order[h] = 0;
            if :: vm[h] == FROZEN -> vm[h] = RUNNING :: else fi;
            if :: h == 0 -> behind = 0 :: else fi
    fi;
    check()
}

inline at_risk(h) {     /* the order is carried out */
    if :: AT_RISK_FENCE -> vm[h] = DEAD; EACH(d, 0, DISKS, queued[AT(h, d)] = false)
       :: !AT_RISK_FENCE && FREEZE && vm[h] == RUNNING -> vm[h] = FROZEN
       :: else
    fi;
    order[h] = 0
}

inline release(h) {
    EACH(d, 0, DISKS, if :: holder[d] == h + 1 && lock[AT(h, d)] == HELD -> holder[d] = 0 :: else fi);
    forget(h)
}

#define SHIELDED(h) (PIN && (COPY || vm[h] != DEAD))
#define NOTHING_QUEUED(h) (!queued[AT(h, 0)] && !queued[AT(h, DISKS - 1)])
#define KNOWS_LOSS(h) (lock[AT(h, 0)] == LOST || lock[AT(h, DISKS - 1)] == LOST)

proctype Host(byte h) {
    byte k;
    do
    /* its link and its client */
    :: atomic { cuts && !cut[h] && vm[h] != NO_VM -> cut[h] = true; cuts-- }
    :: atomic { cut[h] -> cut[h] = false }
    :: atomic { up && !cut[h] && (session[h] == DROPPED || session[h] == REBOOTED) -> d_step { new_session(h) } }
    :: atomic { up && !cut[h] && (session[h] == MAY_RECLAIM || session[h] == MAY_NOT) -> d_step { recover(h) } }
    :: atomic { REACHES(h) && (vm[h] != NO_VM || target == h + 1) && seen[h] && !KNOWS_LOSS(h) -> seen[h] = 0 }
    /* a start */
    :: atomic { starts && vm[h] == NO_VM && target != h + 1 && REACHES(h) && !grace -> d_step { start(h) } }
    /* the watchdog */
    :: atomic { !stopped[h] && (vm[h] == RUNNING || vm[h] == FROZEN) && (REACHES(h) || KNOWS_LOSS(h)) &&
                (age[h] || due[h] || KNOWS_LOSS(h)) && !(gone_over && target == h + 1) -> d_step { verdict(h) } }
    :: atomic { !stopped[h] && vm[h] == FROZEN && due[h] && age[h] && REACHES(h) && !KNOWS_LOSS(h) ->
                seen[h] = 0; age[h] = 0 }     /* the lease is confirmed, the record is not read yet */
    :: atomic { !stopped[h] && order[h] -> d_step { at_risk(h) } }
    :: atomic { deaths && !stopped[h] && (vm[h] == RUNNING || vm[h] == FROZEN) ->
                deaths--; due[h] = (age[h] >= LEASE || (TAKEN_OVER && vm[h] == FROZEN)) }
    :: atomic { stops && vm[h] == RUNNING -> stops--; stopped[h] = true; order[h] = 0 }
    /* the guest writes; the write lands, or fails on a lost lock */
    :: atomic { WRITES && vm[h] == RUNNING -> k = 0; do :: k < DISKS - 1 -> k++ :: break od; skip;
                queued[AT(h, k)] = true; k = 0 }
    :: atomic { WRITES && up && !cut[h] -> k = 0; do :: k < DISKS - 1 -> k++ :: break od; skip;
                if :: queued[AT(h, k)] && (!SHIELDED(h) || session[h] == GOOD && lock[AT(h, k)] == HELD) ->
                        assert(claim[AT(h, k)] >= newest[k]); queued[AT(h, k)] = false
                   :: queued[AT(h, k)] && SHIELDED(h) && lock[AT(h, k)] == LOST -> queued[AT(h, k)] = false
                   :: else
                fi; k = 0 }
    /* the end */
    :: atomic { vm[h] == DEAD && NOTHING_QUEUED(h) && (REACHES(h) || KNOWS_LOSS(h)) -> d_step { release(h) } }
    :: atomic { !PROOF && vm[h] == RUNNING && REACHES(h) -> d_step {
                EACH(d, 0, DISKS, if :: holder[d] == h + 1 -> holder[d] = 0 :: else fi) } }
    /* the move of a lock onto QEMU's description, in one step */
    :: atomic { ONE_STEP && vm[h] == RUNNING && REACHES(h) && holder[0] == h + 1 && !bare[h] ->
                bare[h] = true; holder[0] = 0 }
    :: atomic { bare[h] && REACHES(h) && holder[0] == 0 -> bare[h] = false; holder[0] = h + 1 }
    /* a migration to this host: it reserves, the source lets go and the guest runs here, it locks; or it is aborted */
    :: atomic { migrations && !target && vm[h] == NO_VM && REACHES(h) && !grace && !reserved && holder[0] &&
                holder[0] != h + 1 -> migrations--; target = h + 1; seen[h] = 0; age[h] = 0;
                database[h] = true; reserved = (RESERVE -> h + 1 : 0) }
    :: atomic { target == h + 1 && !gone_over -> d_step { target = 0;
                if :: reserved == h + 1 -> reserved = 0 :: else fi; forget(h) } }
    :: atomic { target == h + 1 && REACHES(h) && reserved == h + 1 && age[h] -> d_step { seen[h] = 0; age[h] = 0;
                order[h] = 0; if :: vm[h] == FROZEN -> vm[h] = RUNNING :: else fi; check() } }
    :: atomic { target && target != h + 1 && !gone_over && vm[h] == RUNNING && REACHES(h) && holder[0] == h + 1 &&
                !cut[target - 1] && NOTHING_QUEUED(h) &&
                age[target - 1] < FREEZE_AT /* a target at risk stands still */ -> d_step { release(h); gone_over = true;
                vm[target - 1] = RUNNING; check() } }
    :: atomic { target == h + 1 && gone_over && REACHES(h) && !grace && holder[0] == 0 && holder[DISKS - 1] == 0 &&
                (!reserved || reserved == h + 1) -> d_step { n = vm[h]; i = n; take(h); vm[h] = i; i = 0;
                reserved = 0; target = 0; gone_over = false } }
    :: atomic { target == h + 1 && gone_over && vm[h] == RUNNING && (session[h] != GOOD ||
                RESERVE && reserved != h + 1) -> vm[h] = DEAD; target = 0; gone_over = false }
    od
}

proctype Server() {
    do
    :: atomic { up && reboots -> reboots--; up = false }
    :: atomic { !up -> d_step { up = true; reserved = 0; delegated = false;
                grace = (DATABASE == FORGETTING || !GRACE -> 0 : GRACE + 1);
                EACH(d, 0, DISKS, holder[d] = 0);
                EACH(i, 0, HOSTS,
                    database[i] = (DATABASE == LAGGING || DATABASE == DUTIFUL && database[i]);
                    may[i] = database[i]; session[i] = REBOOTED) } }
    :: atomic { revokes && up && holder[0] -> d_step { revokes--; n = holder[0] - 1; lock[AT(n, 0)] = LOST;
                holder[0] = 0; n = 0 } }
    :: atomic { BY_HAND && grace -> grace = 0 }
    :: atomic { !COURTEOUS && up -> d_step { EACH(n, 0, HOSTS,
                if :: OVER(n) && session[n] == GOOD -> drop(n) :: else fi) } }
    od
}

#define MUST_ACT(h) (order[h] == 2 && !stopped[h])

inline second(h) {      /* one second more for one host; the clock of host 0 may fall behind */
    seen[h] = (seen[h] > LEASE -> seen[h] : seen[h] + 1);
    age[h] = (age[h] > LEASE || vm[h] == NO_VM && target != h + 1 -> age[h] : age[h] + 1);
    due[h] = due[h] || age[h] >= LEASE;
    order[h] = (order[h] == 1 -> 2 : (age[h] >= FREEZE_AT && vm[h] == RUNNING && !stopped[h] && !order[h] -> 1 : order[h]))
}

proctype Clock() {
    do
    :: atomic { !MUST_ACT(0) && !MUST_ACT(HOSTS - 1) && (HOSTS < 3 || !MUST_ACT(1)) -> d_step {
                grace = (grace && up -> grace - 1 : grace);
                EACH(i, 0, HOSTS, second(i)) } }
    :: atomic { SLOW_CLOCK && behind < SLOW_CLOCK && age[0] && age[0] <= LEASE -> age[0]--; behind++ }
    od
}

init {
    atomic {
        d_step { n = 0; take(n); n = 0; yes = false };
        database[HOSTS - 1] = true;
        run Server(); run Clock(); run Host(0); run Host(1);
        if :: HOSTS > 2 -> run Host(HOSTS - 1) :: else fi
    }
}
