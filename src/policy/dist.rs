//! Which distribution ports may be open, and which names get one.

use super::names::NamePatterns;
use super::ports::PortSet;

/// `[dist]` as far as it decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistRules {
    /// `ports`
    pub ports: PortRule,
    /// `names`: which registered names get a port; counts where `ports` is "registered".
    pub names: NamePatterns,
}

/// Why a registered name is not offered to peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// `[dist] names` leaves it out.
    Name,
    /// Its port is not one of `[dist] ports`.
    NotListed,
    /// Its port is outside of `[dist] range`.
    OutOfRange,
}

impl DistRules {
    /// Whether a node that is registered by this name at this port of its own is offered to peers.
    ///
    /// # Errors
    /// Why not.
    pub fn offers(&self, name: &[u8], port: u16) -> Result<(), Withheld> {
        match &self.ports {
            PortRule::Listed(ports) if ports.contains(port) => Ok(()),
            PortRule::Listed(_) => Err(Withheld::NotListed),
            PortRule::Registered { .. } if !self.names.judge(name).is_offered() => Err(Withheld::Name),
            PortRule::Registered { range, .. } if range.contains(port) => Ok(()),
            PortRule::Registered { .. } => Err(Withheld::OutOfRange),
        }
    }
}

/// Which ports are offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortRule {
    /// Those of the nodes that are registered at epmd.
    Registered {
        /// `range`: ports outside of it are never opened, whatever is registered there.
        range: PortSet,
        /// `outside`: where the nodes are offered instead of at their own numbers; `None`: at their own.
        outside: Option<PortSet>,
    },
    /// These, whether or not anything is registered there.
    Listed(PortSet),
}

impl PortRule {
    /// Whether the port of this number on the outside may lead to a node.
    #[must_use]
    pub fn may_be_open(&self, outside_port: u16) -> bool {
        match self {
            Self::Registered { outside: Some(outside), .. } => outside.contains(outside_port),
            Self::Registered { range, outside: None } => range.contains(outside_port),
            Self::Listed(ports) => ports.contains(outside_port),
        }
    }

    /// Whether nodes are offered at other numbers than their own.
    #[must_use]
    pub fn is_remapped(&self) -> bool {
        matches!(self, Self::Registered { outside: Some(_), .. })
    }

    /// Whether the port of this number on the outside may lead to a node's port of that number.
    #[must_use]
    pub fn may_lead(&self, outside_port: u16, inside_port: u16) -> bool {
        match self {
            Self::Registered { range, outside: Some(outside) } => {
                outside.contains(outside_port) && range.contains(inside_port)
            }
            Self::Registered { range, outside: None } => {
                outside_port == inside_port && range.contains(inside_port)
            }
            Self::Listed(ports) => outside_port == inside_port && ports.contains(inside_port),
        }
    }

    /// Whether no port can ever be open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Registered { range, outside } => {
                range.is_empty() || outside.as_ref().is_some_and(PortSet::is_empty)
            }
            Self::Listed(ports) => ports.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> PortSet {
        text.parse().unwrap()
    }

    #[test]
    fn a_port_of_ours_leads_only_where_both_numbers_may_be() {
        let range = set("40000-41000");
        let remapped = PortRule::Registered { range: range.clone(), outside: Some(set("9100-9105")) };
        assert!(remapped.may_lead(9100, 40500));
        for (outside, inside) in [(9100, 5432), (9100, 9100), (9106, 40500), (40500, 40500)] {
            assert!(!remapped.may_lead(outside, inside), "{outside} {inside}");
        }
        let registered = PortRule::Registered { range, outside: None };
        let listed = PortRule::Listed(set("40000-41000"));
        for same in [registered, listed] {
            assert!(same.may_lead(40500, 40500));
            assert!(!same.may_lead(40500, 40501) && !same.may_lead(5432, 5432));
        }
    }
}
