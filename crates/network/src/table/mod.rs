//! The cluster's nf_tables table: what is in it, and changes to it.
//!
//! Never in two halves: every change is one transaction. Adopted after a restart by reading it back, so that Services keep
//! working while Knarr is away, and only what differs is written when it comes back.

mod frontend;
mod layout;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

pub(crate) use frontend::{Delta, ENDPOINTS_MAX, Frontend, Installed, Origin, Target};
pub(crate) use layout::Layout;

use crate::nft::{Batch, Data, Element, Family, Monitor, Nft, NftError, Verdict};
use frontend::{Spread, endpoint_bytes, endpoint_of};

/// Each attempt fails only if a client's time ran out within the microseconds since the dump.
const FORGET_ATTEMPTS: usize = 10;

/// One node's table and a picture of its content.
pub(crate) struct Table {
    nft: Nft,
    layout: Layout,
    content: Content,
}

/// What the sets hold.
#[derive(Default)]
struct Content {
    frontends: HashMap<Frontend, Installed>,
    /// Those whose endpoints are all about to end. Not in the kernel; known anew after the first change.
    draining: HashSet<Frontend>,
    /// How many frontends use each spreading chain.
    spreads: BTreeMap<Spread, usize>,
    /// Pods that may reach themselves through a Service.
    pods: BTreeSet<IpAddr>,
    host_ports: BTreeMap<Frontend, SocketAddr>,
}

impl Table {
    /// Adopts the table if it is of this layout; otherwise replaces it in one transaction, with the same content as far as it
    /// can be read.
    pub(crate) fn open(name: &str, layout: Layout) -> Result<Table, NftError> {
        let nft = Nft::open(layout.family, name)?;
        let mut table = Table { nft, layout, content: Content::default() };
        if table.nft.exists()? {
            let chains = table.nft.chains()?;
            match table.read(&chains) {
                Ok(Some(content)) if chains.contains(&table.layout.marker()) => {
                    table.content = content;
                    return Ok(table);
                }
                Ok(content) => table.content = content.unwrap_or_default(),
                // A table of another layout may lack some sets.
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        table.rebuild()?;
        Ok(table)
    }

    /// Tells of changes by others.
    pub(crate) fn monitor(&self) -> Result<Monitor, NftError> {
        let failed = |source| NftError::Socket { action: "listen to it".to_owned(), source: Box::new(source) };
        Monitor::open(self.nft.table(), self.nft.port()?).map_err(failed)
    }

    /// Makes the table again as it shall be, in one transaction.
    pub(crate) fn restore(&mut self) -> Result<(), NftError> {
        self.rebuild()
    }

    /// Whether new connections to any frontend may reach this address, other than for want of better.
    pub(crate) fn leads_to(&self, address: IpAddr) -> bool {
        let frontends = self.content.frontends.iter().filter(|(frontend, _)| !self.content.draining.contains(frontend));
        frontends.into_iter().any(|(_, state)| state.slots().iter().any(|endpoint| endpoint.ip() == address))
    }

    /// What each frontend leads to now.
    pub(crate) fn frontends(&self) -> impl Iterator<Item = (&Frontend, &Installed)> {
        self.content.frontends.iter()
    }

    /// Host ports and the pods' ports that they lead to.
    pub(crate) fn host_ports(&self) -> impl Iterator<Item = (&Frontend, &SocketAddr)> {
        self.content.host_ports.iter()
    }

    pub(crate) fn pods(&self) -> &BTreeSet<IpAddr> {
        &self.content.pods
    }

    /// Brings the given frontends to their targets; `None` removes one. One transaction, proportional to what differs. If
    /// the table was taken away by someone, it is made again whole.
    pub(crate) fn apply<'a>(&mut self, changes: impl IntoIterator<Item = (&'a Frontend, Option<&'a Target>)>) -> Result<Delta, NftError> {
        let mut delta = Delta::default();
        let mut installed = Vec::new();
        for (frontend, target) in changes {
            let old = self.content.frontends.get(frontend);
            let draining = matches!(target, Some(Target::Endpoints { draining: true, .. }));
            installed.push((*frontend, delta.change(frontend, old, target), draining));
        }
        let batch = self.delta_batch(&delta);
        let foreign = match self.nft.commit(batch) {
            Ok(()) => None,
            Err(error) if is_foreign_change(&error) => Some(error),
            Err(error) => return Err(error),
        };
        self.content.count(&delta);
        for (frontend, state, draining) in installed {
            if draining {
                self.content.draining.insert(frontend)
            } else {
                self.content.draining.remove(&frontend)
            };
            match state {
                Some(state) => self.content.frontends.insert(frontend, state),
                None => self.content.frontends.remove(&frontend),
            };
        }
        if let Some(error) = foreign {
            tracing::warn!(%error, "the nf_tables table was changed by someone else, it is made again");
            self.rebuild()?;
        } else {
            self.forget_clients(&delta)?;
        }
        Ok(delta)
    }

    /// Deletes what clients remember of endpoints that have gone. An element may expire between the dump and the deletion; then
    /// it is done again with what is left.
    fn forget_clients(&mut self, delta: &Delta) -> Result<(), NftError> {
        if !delta.had_memory() {
            return Ok(());
        }
        let gone: HashSet<(Frontend, SocketAddr)> = delta.gone.iter().copied().collect();
        let is_stale = |element: &Element| {
            let Some(Data::Value(value)) = &element.data else { return false };
            endpoint_of(value).is_some_and(|endpoint| {
                [Origin::Anyone, Origin::Outside].into_iter().any(|origin| {
                    Frontend::of_client_key(&element.key, origin).is_some_and(|frontend| gone.contains(&(frontend, endpoint)))
                })
            })
        };
        for _ in 0..FORGET_ATTEMPTS {
            let stale: Vec<Element> = self.nft.elements(layout::STICKY)?.into_iter().filter(is_stale).collect();
            let mut batch = self.nft.batch();
            batch.delete_elements(layout::STICKY, &stale.into_iter().map(|element| Element::key(element.key)).collect::<Vec<_>>());
            match self.nft.commit(batch) {
                Err(error) if error.is_missing() => {}
                other => return other,
            }
        }
        Err(NftError::Unstable { attempts: FORGET_ATTEMPTS })
    }

    /// Lets a pod reach itself through Services and opens its host ports.
    pub(crate) fn add_pod(&mut self, pod: IpAddr, host_ports: &[(Frontend, SocketAddr)]) -> Result<(), NftError> {
        let mut batch = self.nft.batch();
        if !self.content.pods.contains(&pod) {
            batch.add_elements(layout::HAIRPIN, &[hairpin(pod)]);
        }
        let fresh: Vec<_> = host_ports.iter().filter(|(frontend, _)| !self.content.host_ports.contains_key(frontend)).collect();
        batch.add_elements(layout::HOST_PORTS, &fresh.iter().map(|(from, to)| host_port(from, to)).collect::<Vec<_>>());
        let result = self.nft.commit(batch);
        self.after_pod_change(result, |content| {
            content.pods.insert(pod);
            content.host_ports.extend(host_ports.iter().copied());
        })
    }

    /// Takes back what [`Table::add_pod`] did. Without effect on an unknown pod.
    pub(crate) fn remove_pod(&mut self, pod: IpAddr) -> Result<(), NftError> {
        let mut batch = self.nft.batch();
        if self.content.pods.contains(&pod) {
            batch.delete_elements(layout::HAIRPIN, &[hairpin(pod)]);
        }
        let ports: Vec<_> = self.content.host_ports.iter().filter(|(_, to)| to.ip() == pod).map(|(from, _)| *from).collect();
        let elements: Vec<_> = ports.iter().map(|from| Element::key(from.key())).collect();
        batch.delete_elements(layout::HOST_PORTS, &elements);
        let result = self.nft.commit(batch);
        self.after_pod_change(result, |content| {
            content.pods.remove(&pod);
            content.host_ports.retain(|_, to| to.ip() != pod);
        })
    }

    /// Deletes the table `name`. Without effect if there is none.
    pub(crate) fn remove(family: Family, name: &str) -> Result<(), NftError> {
        let mut nft = Nft::open(family, name)?;
        let mut batch = nft.batch();
        batch.add_table();
        batch.delete_table();
        nft.commit(batch)
    }

    fn after_pod_change(&mut self, result: Result<(), NftError>, record: impl FnOnce(&mut Content)) -> Result<(), NftError> {
        match result {
            Ok(()) => record(&mut self.content),
            Err(error) if is_foreign_change(&error) => {
                tracing::warn!(%error, "the nf_tables table was changed by someone else, it is made again");
                record(&mut self.content);
                self.rebuild()?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn delta_batch(&self, delta: &Delta) -> Batch {
        let mut batch = self.nft.batch();
        let mut uses = self.content.spreads.clone();
        for spread in &delta.acquired {
            let count = uses.entry(*spread).or_default();
            if *count == 0 {
                self.layout.spread_chain(&mut batch, spread);
            }
            *count += 1;
        }
        delta.delete.iter().for_each(|(set, elements)| batch.delete_elements(set, elements));
        delta.add.iter().for_each(|(set, elements)| batch.add_elements(set, elements));
        for spread in &delta.released {
            let count = uses.entry(*spread).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                batch.delete_chain(&spread.chain());
            }
        }
        batch
    }

    /// One transaction that replaces the table by the layout with the known content.
    fn rebuild(&mut self) -> Result<(), NftError> {
        let mut batch = self.nft.batch();
        self.layout.create(&mut batch);
        let mut delta = Delta::default();
        let frontends = std::mem::take(&mut self.content.frontends);
        for (frontend, state) in &frontends {
            delta.change(frontend, None, Some(&state.target()));
        }
        let spreads: BTreeSet<_> = delta.acquired.iter().copied().collect();
        spreads.iter().for_each(|spread| self.layout.spread_chain(&mut batch, spread));
        delta.add.iter().for_each(|(set, elements)| batch.add_elements(set, elements));
        batch.add_elements(layout::HAIRPIN, &self.content.pods.iter().map(|pod| hairpin(*pod)).collect::<Vec<_>>());
        let ports: Vec<_> = self.content.host_ports.iter().map(|(from, to)| host_port(from, to)).collect();
        batch.add_elements(layout::HOST_PORTS, &ports);
        self.nft.commit(batch)?;
        self.content.spreads.clear();
        self.content.count(&delta);
        // The slots are numbered anew, in the order of the target.
        self.content.frontends = frontends
            .into_iter()
            .filter_map(|(frontend, state)| {
                let again = Delta::default().change(&frontend, None, Some(&state.target()))?;
                Some((frontend, again))
            })
            .collect();
        Ok(())
    }

    /// The content as the kernel has it; `None` if it does not fit together.
    fn read(&mut self, chains: &[String]) -> Result<Option<Content>, NftError> {
        let mut reader = Reader::default();
        for (set, origin) in [(layout::SERVICES, Origin::Anyone), (layout::OUTSIDE, Origin::Outside)] {
            self.nft.elements(set)?.iter().for_each(|element| reader.verdict(element, origin));
        }
        self.nft.elements(layout::UNSERVED)?.iter().for_each(|element| reader.unserved(element));
        self.nft.elements(layout::ENDPOINTS)?.iter().for_each(|element| reader.endpoint(element));
        self.nft.elements(layout::HAIRPIN)?.iter().for_each(|element| reader.pod(element));
        self.nft.elements(layout::HOST_PORTS)?.iter().for_each(|element| reader.host_port(element));
        Ok(reader.finish(chains))
    }
}

/// The kernel's content is not what we left: something is missing that must be there, or there that must not.
fn is_foreign_change(error: &NftError) -> bool {
    error.is_missing() || error.is_present()
}

impl Content {
    /// Keeps account of the chains in use.
    fn count(&mut self, delta: &Delta) {
        for spread in &delta.acquired {
            *self.spreads.entry(*spread).or_default() += 1;
        }
        for spread in &delta.released {
            if let Some(count) = self.spreads.get_mut(spread) {
                *count = count.saturating_sub(1);
            }
        }
        self.spreads.retain(|_, count| *count > 0);
    }
}

impl Installed {
    fn target(&self) -> Target {
        match self {
            Installed::Endpoints { slots, sticky } => {
                Target::Endpoints { endpoints: slots.iter().copied().collect(), sticky: *sticky, draining: false }
            }
            Installed::Reject => Target::Reject,
            Installed::Drop => Target::Drop,
        }
    }
}

fn hairpin(pod: IpAddr) -> Element {
    Element::key([layout::octets(pod), layout::octets(pod)].concat())
}

fn host_port(from: &Frontend, to: &SocketAddr) -> Element {
    Element::value(from.key(), endpoint_bytes(to))
}

/// Puts the content together from set elements.
#[derive(Default)]
struct Reader {
    verdicts: HashMap<Frontend, Verdict>,
    slots: HashMap<Frontend, BTreeMap<usize, SocketAddr>>,
    content: Content,
    broken: bool,
}

impl Reader {
    fn verdict(&mut self, element: &Element, origin: Origin) {
        match (Frontend::of_key(&element.key, origin), &element.data) {
            (Some(frontend), Some(Data::Verdict(verdict))) => {
                self.verdicts.insert(frontend, verdict.clone());
            }
            _ => self.broken = true,
        }
    }

    fn unserved(&mut self, element: &Element) {
        match Frontend::of_key(&element.key, Origin::Anyone) {
            Some(frontend) => {
                self.content.frontends.insert(frontend, Installed::Reject);
            }
            None => self.broken = true,
        }
    }

    fn endpoint(&mut self, element: &Element) {
        let value = match &element.data {
            Some(Data::Value(value)) => endpoint_of(value),
            _ => None,
        };
        match (Frontend::of_slot_key(&element.key), value) {
            (Some((frontend, slot)), Some(endpoint)) => {
                self.slots.entry(frontend).or_default().insert(slot, endpoint);
            }
            _ => self.broken = true,
        }
    }

    fn pod(&mut self, element: &Element) {
        match element.key.first_chunk::<4>() {
            Some(address) => {
                self.content.pods.insert(IpAddr::from(*address));
            }
            None => self.broken = true,
        }
    }

    fn host_port(&mut self, element: &Element) {
        let value = match &element.data {
            Some(Data::Value(value)) => endpoint_of(value),
            _ => None,
        };
        match (Frontend::of_key(&element.key, Origin::Anyone), value) {
            (Some(frontend), Some(endpoint)) => {
                self.content.host_ports.insert(frontend, endpoint);
            }
            _ => self.broken = true,
        }
    }

    fn finish(mut self, chains: &[String]) -> Option<Content> {
        for (frontend, verdict) in std::mem::take(&mut self.verdicts) {
            let installed = match verdict {
                Verdict::Drop => Installed::Drop,
                Verdict::Goto(chain) => {
                    let spread = Spread::of_chain(&chain)?;
                    let slots = self.slots.remove(&frontend).unwrap_or_default();
                    let gapless = slots.keys().copied().eq(0..spread.count as usize);
                    *self.content.spreads.entry(spread).or_default() += 1;
                    self.broken |= !gapless;
                    Installed::Endpoints { slots: slots.into_values().collect(), sticky: spread.sticky }
                }
                _ => return None,
            };
            self.content.frontends.insert(frontend, installed);
        }
        let chains: BTreeSet<Spread> = chains.iter().filter_map(|name| Spread::of_chain(name)).collect();
        let whole = !self.broken && self.slots.is_empty() && chains.iter().eq(self.content.spreads.keys());
        whole.then_some(self.content)
    }
}

#[cfg(test)]
mod tests;
