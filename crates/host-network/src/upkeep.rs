//! Keeping the network as it should be, whoever changes it: a task that hears of changes, looks, decides and mends.
//!
//! ```text
//!          change heard, interface detached, retry due
//!   wait ───────────────────────────────────────────────▶ settle (100 ms) ─▶ observe ─▶ plan ─▶ apply ─┐
//!    ▲                                                                                                │
//!    └───────────────────────────────── tell what cannot be mended ◀──────────────────────────────────┘
//! ```
//!
//! What it decides is decided by the same pure plans as at start, and one for TAPs. What it cannot mend it tells as
//! sentences, which vanish when the cause does.

mod taps;
mod uplink;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use self::taps::{Absences, GRACE, TapAction, plan_taps, strayed};
use crate::bridge::{BridgePlan, Observed, apply_bridge, ensure_ipv6, observe, plan_bridge, seen_bridge};
use crate::dhcp::DhcpServer;
use crate::events::{Changed, NetworkEvents};
use crate::forwards::hidden_programs;
use crate::host::{AttachedTap, Shared, loss};
use crate::ipv6::{Ipv6Server, missing_addresses};
use crate::names::tap_alias;
use crate::netlink::{NetlinkError, Port};
use crate::rules::{Rules, blocking};
use crate::start::{Holdings, forward_drops};
use crate::{BridgeOrigin, HostForwarding, NetworkError};

/// How long a burst of changes may go on before it is looked at: no look follows another more closely.
const SETTLE: Duration = Duration::from_millis(100);
/// When to try again what failed.
const RETRY: Duration = Duration::from_secs(2);
/// How often it is looked whether programs listen where ports lead to VMs: nobody tells of that.
const LISTENERS: Duration = Duration::from_secs(30);

/// The running task.
#[derive(Debug)]
pub(crate) struct Upkeep {
    task: JoinHandle<Holdings>,
    stop: oneshot::Sender<()>,
    degraded: watch::Receiver<Vec<String>>,
}

impl Upkeep {
    pub(crate) fn start(shared: Arc<Shared>, holdings: Holdings, events: NetworkEvents) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (degraded, watched) = watch::channel(Vec::new());
        let keeper = Keeper {
            shared,
            holdings,
            degraded,
            absences: Absences::default(),
            drops: Vec::new(),
            forwarding: None,
        };
        Self { task: tokio::spawn(keeper.run(events, stopped)), stop, degraded: watched }
    }

    pub(crate) fn watch_degraded(&self) -> watch::Receiver<Vec<String>> {
        self.degraded.clone()
    }

    /// Ends the task after the look that it is at, and returns what it kept.
    ///
    /// # Errors
    /// If the task had failed.
    pub(crate) async fn stop(self) -> Result<Holdings, NetworkError> {
        // The task may have failed; joining it says so.
        let _ = self.stop.send(());
        self.task.await.map_err(|cause| NetworkError::Lost { operation: "keep the network", cause })
    }
}

/// What the task owns.
struct Keeper {
    shared: Arc<Shared>,
    holdings: Holdings,
    degraded: watch::Sender<Vec<String>>,
    absences: Absences,
    /// What other tables drop, as of the last look at rules.
    drops: Vec<String>,
    /// Whom the host forwards for, as of the last look; start has logged what was first.
    forwarding: Option<HostForwarding>,
}

/// What one look came to.
#[derive(Debug, Default)]
struct Verdict {
    degraded: Vec<String>,
    /// When to look again though nothing changes.
    again: Option<Duration>,
}

impl Verdict {
    fn failed(&mut self, what: &str, error: &NetworkError) {
        self.degraded.push(format!("{what}: {}", chain(error)));
        self.look_within(RETRY);
    }

    /// Has the next look come no later than that.
    fn look_within(&mut self, pause: Duration) {
        self.again = Some(self.again.map_or(pause, |again| again.min(pause)));
    }
}

impl Keeper {
    async fn run(mut self, events: NetworkEvents, mut stopped: oneshot::Receiver<()>) -> Holdings {
        let mut rules_changed = true;
        loop {
            // Not interrupted: what is begun is finished.
            let verdict = self.look(rules_changed).await;
            rules_changed = verdict.again == Some(RETRY);
            let again = verdict.again;
            self.tell(verdict.degraded);
            let pause = async {
                match again {
                    Some(after) => tokio::time::sleep(after).await,
                    None => std::future::pending().await,
                }
            };
            // Each arm is cancel-safe: none takes anything before it completes.
            tokio::select! {
                _ = &mut stopped => break,
                changed = events.next() => rules_changed |= matches!(changed, Ok(Changed::Rules) | Err(_)),
                () = self.shared.detached.notified() => {}
                () = pause => {}
            }
            tokio::select! {
                _ = &mut stopped => break,
                rules = settle(&events) => rules_changed |= rules,
            }
        }
        self.holdings
    }

    async fn look(&mut self, rules_changed: bool) -> Verdict {
        let mut verdict = Verdict::default();
        let shared = Arc::clone(&self.shared);
        // Before the links: one that is attached meanwhile was seen while it was being made.
        let taps = shared.taps();
        let observed = match observe(&shared.netlink).await {
            Ok(observed) => observed,
            Err(error) => {
                verdict.failed("the host's network cannot be looked at", &error.into());
                return verdict;
            }
        };
        match self.keep_bridge(&observed, &mut verdict).await {
            Ok(BridgeState::There) => {
                let uplink = self.ready_uplink(&observed, &mut verdict).await;
                if self.keep_rules(&observed, rules_changed, &mut verdict).await {
                    self.join_uplink(uplink, &mut verdict).await;
                }
                self.keep_ipv6(&observed, &mut verdict).await;
                self.tell_hidden(&taps, &mut verdict).await;
                self.keep_taps(taps, &observed, &mut verdict).await;
            }
            // The bridge has changed, which will be heard; what depends on it is looked at then.
            Ok(BridgeState::Mended) => verdict.again = Some(SETTLE),
            Ok(BridgeState::Renamed(now)) => verdict.degraded.push(format!(
                "the bridge {0} is called {now} now, and was not made by this worker: call it {0} again",
                shared.config.bridge
            )),
            Ok(BridgeState::Missing) => verdict.degraded.push(format!(
                "the bridge {} was deleted, and was not made by this worker: make it again",
                shared.config.bridge
            )),
            Err(error) => verdict.failed("the bridge cannot be mended", &error),
        }
        verdict.degraded.extend(self.drops.iter().cloned());
        verdict
    }

    async fn keep_bridge(
        &mut self,
        observed: &Observed,
        verdict: &mut Verdict,
    ) -> Result<BridgeState, NetworkError> {
        let shared = &self.shared;
        let name = shared.config.bridge.as_str();
        let is_there = observed.links.iter().any(|link| link.name == name);
        if !is_there && self.holdings.origin == BridgeOrigin::Adopted {
            let renamed = observed.links.iter().find(|link| link.index == shared.bridge());
            return Ok(renamed.map_or(BridgeState::Missing, |link| BridgeState::Renamed(link.name.clone())));
        }
        let plan = plan_bridge(&shared.config, observed)?;
        // They keep nothing from being mended.
        let subnet = shared.config.network();
        verdict.degraded.extend(plan.uses.iter().map(|user| user.meaning(subnet)));
        let found = seen_bridge(&shared.config.bridge, &observed.links).map(|link| link.index);
        if plan.actions.is_empty() && found == Some(shared.bridge()) {
            return Ok(BridgeState::There);
        }
        let adopted = plan.adopted.clone();
        let note = move |rules: &mut Rules| rules.changed.note_bridge(adopted);
        self.holdings.rules.run("note what is changed on the bridge", note).await??;
        let index = apply_bridge(&shared.netlink, &shared.config, observed, &plan).await?;
        let actions: Vec<String> = plan.actions.iter().map(ToString::to_string).collect();
        info!(bridge = name, actions = actions.join(", "), "mended the bridge, which somebody had changed");
        self.adopt(index, &plan)?;
        Ok(BridgeState::Mended)
    }

    /// Takes note of a bridge that was made again.
    fn adopt(&mut self, index: u32, plan: &BridgePlan) -> Result<(), NetworkError> {
        if index == self.shared.bridge() {
            return Ok(());
        }
        let bridge = self.shared.config.bridge.clone();
        let failed = |cause| NetworkError::Dhcp { bridge: bridge.clone(), cause };
        if let Some(server) = &mut self.holdings.dhcp {
            let again = DhcpServer::start(index, self.holdings.facts.clone(), self.shared.bindings.clone());
            // The old one ends with its value.
            *server = again.map_err(&failed)?;
        }
        if let Some((server, facts)) = &mut self.holdings.ipv6 {
            let again = Ipv6Server::start(index, facts.clone(), self.shared.bindings.clone());
            *server = again.map_err(failed)?;
        }
        if plan.origin == BridgeOrigin::Adopted {
            self.holdings.origin = BridgeOrigin::Adopted;
        }
        self.shared.bridge.store(index, Ordering::Release);
        Ok(())
    }

    /// Forwarding, our table, and the sight of others' tables. Whether our table is in force.
    async fn keep_rules(&mut self, observed: &Observed, rules_changed: bool, verdict: &mut Verdict) -> bool {
        let bridge = self.shared.bridge();
        let (links, routes) = (observed.links.clone(), observed.routes.clone());
        let step = move |rules: &mut Rules| {
            let mut drops = None;
            if rules_changed {
                if !rules.look_at_tables() {
                    info!("our packet filter tables were changed or removed, and are made again");
                }
                let found = forward_drops(&rules.firewall);
                drops = Some(found.iter().map(ToString::to_string).collect());
            }
            let settled = rules.settle(bridge, &links, &routes);
            (drops, settled)
        };
        match self.holdings.rules.run("keep packet forwarding", step).await {
            Ok((drops, settled)) => {
                self.drops = drops.unwrap_or_else(|| std::mem::take(&mut self.drops));
                match settled {
                    Ok(now) => {
                        self.tell_forwarding(now);
                        return true;
                    }
                    Err(error) => {
                        verdict.failed("packets from and to VMs may not be forwarded as they should", &error);
                    }
                }
            }
            Err(error) => verdict.failed("packet forwarding is not looked after", &error),
        }
        false
    }

    /// The host's IPv6 addresses on the bridge: they go with a bridge that is down for a moment.
    async fn keep_ipv6(&self, observed: &Observed, verdict: &mut Verdict) {
        let Some((_, facts)) = &self.holdings.ipv6 else { return };
        let (shared, bridge) = (&self.shared, self.shared.bridge());
        let missing = missing_addresses(facts.subnet, bridge, observed);
        if missing.is_none_or(|(_, missing)| missing.is_empty()) {
            return;
        }
        let place = (bridge, self.holdings.origin);
        match ensure_ipv6(&shared.netlink, &shared.config, &self.holdings.rules, place).await {
            Ok(_) => info!("mended the host's IPv6 addresses on the bridge, which somebody had changed"),
            Err(error) => verdict.failed("the host has no IPv6 address on the bridge", &error),
        }
    }

    /// Tells of programs that began to listen after ports led to VMs.
    async fn tell_hidden(&self, taps: &[AttachedTap], verdict: &mut Verdict) {
        let forwards = taps.iter().map(|tap| (tap.vm.clone(), tap.access.forwards.clone()));
        let forwards: Vec<_> = forwards.filter(|(_, forwards)| !forwards.is_empty()).collect();
        if forwards.is_empty() {
            return;
        }
        verdict.look_within(LISTENERS);
        let own = self.shared.config.gateway;
        match blocking("look who listens on ports of this host", move || hidden_programs(&forwards, &[own]))
            .await
        {
            Ok(hidden) => verdict.degraded.extend(hidden),
            Err(error) => verdict.failed("programs that VMs' ports hide are not seen", &error),
        }
    }

    /// Logs whom the host forwards for, where that has changed.
    fn tell_forwarding(&mut self, now: HostForwarding) {
        if self.forwarding.as_ref().is_some_and(|before| *before != now) {
            info!(bridge = %self.shared.config.bridge, "{now}");
        }
        self.forwarding = Some(now);
    }

    async fn keep_taps(&mut self, taps: Vec<AttachedTap>, observed: &Observed, verdict: &mut Verdict) {
        verdict.degraded.extend(strayed(&taps, self.shared.config.network()));
        verdict.degraded.extend(self.shared.losses());
        let seen = (observed.links.as_slice(), observed.entries.as_slice());
        let plan = plan_taps(taps, seen, self.shared.bridge(), self.shared.config.between_vms);
        for action in plan.actions {
            match self.mend_tap(&action).await {
                Ok(()) => {
                    info!(vm_id = %action.tap().vm, nic = action.tap().nic, tap = %action.tap().name, "mended a TAP, which somebody had changed: it is {action}")
                }
                // It went meanwhile; the next look sees that.
                Err(error) if error.errno() == Some(libc::ENODEV) => verdict.again = Some(SETTLE),
                Err(error) => verdict.failed(&unmended(&action), &error.into()),
            }
        }
        let (overdue, has_recent) = self.absences.overdue(plan.gone, Instant::now());
        for AttachedTap { vm, nic, name, .. } in overdue {
            verdict.degraded.push(loss(&vm, &nic, &name));
        }
        if has_recent {
            verdict.look_within(GRACE);
        }
    }

    async fn mend_tap(&self, action: &TapAction) -> Result<(), NetlinkError> {
        let netlink = &self.shared.netlink;
        match action {
            TapAction::Rename(tap) => netlink.rename(tap.index, &tap.name).await,
            TapAction::BringUp(tap) => netlink.set_up(tap.index, tap.name.as_str()).await,
            TapAction::Reattach(tap) => {
                let alias = tap_alias(&tap.vm, &tap.nic);
                let port = Port { index: tap.index, name: tap.name.as_str(), alias: &alias, mtu: tap.mtu };
                netlink.make_port(&port, self.shared.bridge(), self.shared.ipv6).await
            }
            TapAction::Bind(tap) => {
                let reach = self.shared.config.between_vms;
                netlink.bind_port(tap.index, tap.name.as_str(), tap.identity.mac, reach).await
            }
        }
    }

    /// Tells what is wrong now, and logs what is new of it and what is no longer so.
    fn tell(&self, degraded: Vec<String>) {
        self.degraded.send_if_modified(|told| {
            for sentence in degraded.iter().filter(|sentence| !told.contains(sentence)) {
                warn!(degraded = sentence, "the VMs' network is not as it should be");
            }
            for sentence in told.iter().filter(|sentence| !degraded.contains(sentence)) {
                info!(degraded = sentence, "this is mended");
            }
            let is_other = *told != degraded;
            *told = degraded;
            is_other
        });
    }
}

/// What is so where `action` cannot be taken.
fn unmended(action: &TapAction) -> String {
    match action {
        TapAction::Rename(AttachedTap { vm, nic, name, .. }) => {
            format!("the TAP of {vm}/{nic} is not called {name} any more")
        }
        TapAction::Reattach(tap) | TapAction::Bind(tap) | TapAction::BringUp(tap) => {
            format!("{}/{} has no network", tap.vm, tap.nic)
        }
    }
}

/// What has become of the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
enum BridgeState {
    There,
    Mended,
    Missing,
    /// Somebody else's, under this name.
    Renamed(String),
}

/// Waits for a burst of changes to pass; whether rules were among them. Cancel-safe: what is heard is only that
/// something changed.
async fn settle(events: &NetworkEvents) -> bool {
    let deadline = tokio::time::Instant::now() + SETTLE;
    let mut rules = false;
    loop {
        match tokio::time::timeout_at(deadline, events.next()).await {
            Ok(Ok(changed)) => rules |= changed == Changed::Rules,
            Ok(Err(_)) => tokio::time::sleep_until(deadline).await,
            Err(_elapsed) => return rules,
        }
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
