//! The management interface of an Akka or Pekko cluster: `GET /cluster/members`.

use serde::{Deserialize, de::IgnoredAny};

use super::poll::Poll;
use crate::{
    discovery::{
        Claim, Component, Facts, Kind, Member, MemberStatus, SourceId,
        http::{Client, Document, Tls},
    },
    name::{RpcAddress, Url},
};

/// The longest answer, in bytes.
const MEMBERS_MAX: usize = 16 << 20;

/// Members that are asked, in order, until one answers: each knows the whole cluster.
#[derive(Debug)]
pub struct Management {
    servers: Vec<(Url, Client, Document<Answer>)>,
    /// The one that answered last.
    first: usize,
}

impl Management {
    /// Asks these URLs, such as `http://node:7626`.
    pub fn new(urls: Vec<Url>, tls: &Tls) -> Self {
        let server = |url: Url| {
            let members = Document::new(url.below("/cluster/members"), MEMBERS_MAX);
            (url, Client::new(tls.clone()), members)
        };
        Self {
            servers: urls.into_iter().map(server).collect(),
            first: 0,
        }
    }
}

impl Poll for Management {
    fn id(&self) -> SourceId {
        let urls: Vec<_> = self
            .servers
            .iter()
            .map(|(url, ..)| url.to_string())
            .collect();
        SourceId {
            kind: Kind::Management,
            place: urls.join(" "),
        }
    }

    async fn ask(&mut self) -> Result<Facts, String> {
        let count = self.servers.len();
        let mut errors = Vec::new();
        for offset in 0..count {
            let index = (self.first + offset) % count;
            let (_, client, members) = &mut self.servers[index];
            match members.read(client).await {
                Ok((answer, _)) => {
                    self.first = index;
                    return Ok(answer.facts());
                }
                Err(error) => errors.push(error),
            }
        }
        Err(errors.join("; "))
    }
}

/// What a member answers, as far as it matters.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    leader: Option<String>,
    members: Vec<Element>,
    #[serde(default)]
    unreachable: Vec<Element>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Element {
    Good {
        node: String,
        #[serde(default)]
        status: String,
    },
    Bad(IgnoredAny),
}

impl Answer {
    fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        if let Some(leader) = &self.leader
            && let Some(address) = facts.check("leader", leader)
        {
            facts.add(Claim::LeaderRpc {
                component: Component::Cluster,
                address,
                session: None,
            });
        }
        let unreachable: Vec<RpcAddress> = self
            .unreachable
            .iter()
            .filter_map(|element| match element {
                Element::Good { node, .. } => facts.check("member", node),
                Element::Bad(_) => None,
            })
            .collect();
        for element in &self.members {
            let Element::Good { node, status } = element else {
                facts.refuse("member", "", "it has no node");
                continue;
            };
            let Some(address) = facts.check::<RpcAddress>("member", node) else {
                continue;
            };
            let known = MemberStatus::ALL
                .into_iter()
                .find(|known| known.name() == status);
            let Some(status) = known else {
                facts.refuse("member", status, "no such status is known");
                continue;
            };
            facts.add(Claim::Member(Member {
                reachable: !unreachable.contains(&address),
                address,
                status,
            }));
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_answer() {
        let text = r#"{"selfNode":"pekko://s@a:25520","leader":"pekko://s@a:25520",
            "oldest":"pekko://s@a:25520","oldestPerRole":{"dc-default":"pekko://s@a:25520"},
            "members":[
              {"node":"pekko://s@a:25520","nodeUid":"1","status":"Up","roles":["dc-default"]},
              {"node":"pekko://s@b:25520","nodeUid":"2","status":"WeaklyUp","roles":[]},
              {"node":"pekko://s@c\u0007:25520","status":"Up"},
              {"node":"pekko://s@d:25520","status":"Napping"}, 5],
            "unreachable":[{"node":"pekko://s@b:25520","observedBy":["pekko://s@a:25520"]}]}"#;
        let facts = serde_json::from_str::<Answer>(text).unwrap().facts();
        let member = |name: &str, status, reachable| {
            Claim::Member(Member {
                address: format!("pekko://s@{name}:25520").parse().unwrap(),
                status,
                reachable,
            })
        };
        let claims: Vec<_> = facts.claims().cloned().collect();
        assert_eq!(
            claims,
            [
                Claim::LeaderRpc {
                    component: Component::Cluster,
                    address: "pekko://s@a:25520".parse().unwrap(),
                    session: None
                },
                member("a", MemberStatus::Up, true),
                member("b", MemberStatus::WeaklyUp, false),
            ]
        );
        assert_eq!(facts.refused_count(), 3);
        assert!(serde_json::from_str::<Answer>(r#"{"members":{}}"#).is_err());
    }
}
