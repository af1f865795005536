//! `explain`: what would happen to a connection, and why.

use std::net::IpAddr;
use std::process::ExitCode;

use form_urlencoded::Serializer;

use super::client::GuardArguments;
use super::terminal::{shown, shown_json};
use super::{EXIT_CONFIG, ask, color, complain, say};
use crate::config::{Files, Overrides, Source};
use crate::control::explain::{Explanation, Facts, Question, Stage, Verdict, Visibility, explain as answer};
use crate::policy::{HostAnswers, NetworkRules, Policy, Target};
use crate::transport::host;

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArguments {
    /// The address that would connect
    #[arg(long, value_name = "ADDR")]
    from: String,
    /// The node name that it would claim, name@host, or @host for a node that asks to be given a name
    #[arg(long = "as", value_name = "NODE")]
    as_node: Option<String>,
    /// As a hidden node, such as those of remote shells and of command-line tools
    #[arg(long, requires = "as_node")]
    hidden: bool,
    /// The node or the distribution port that it would connect to
    #[arg(long, value_name = "NODE or PORT")]
    to: String,
    #[command(flatten)]
    guard: GuardArguments,
    /// Let this network, address or host name in, besides what the configuration lets in
    #[arg(long, value_name = "CIDR or NAME", conflicts_with_all = ["running", "socket"])]
    allow: Vec<Target>,
    /// Ask the running guard, which knows its ports, its connections and what names mean to it; --socket asks it,
    /// too
    #[arg(long)]
    running: bool,
    /// Print the JSON document of /explain
    #[arg(long)]
    json: bool,
}

pub(super) fn explain(arguments: &ExplainArguments) -> ExitCode {
    let asks = arguments.running || arguments.guard.socket.is_some();
    if asks { ask_running(arguments) } else { explain_offline(arguments) }
}

fn ask_running(arguments: &ExplainArguments) -> ExitCode {
    ask(async {
        let mut query = Serializer::new(String::new());
        query.append_pair("from", &arguments.from).append_pair("to", &arguments.to);
        if let Some(name) = &arguments.as_node {
            query.append_pair("as", name);
        }
        if arguments.hidden {
            query.append_pair("hidden", "1");
        }
        let answer = arguments.guard.client().get(&format!("/explain?{}", query.finish())).await?;
        let explanation: Explanation = answer.document()?;
        Ok(tell(&explanation, arguments))
    })
}

fn explain_offline(arguments: &ExplainArguments) -> ExitCode {
    let visibility = if arguments.hidden { Visibility::Hidden } else { Visibility::Usual };
    let as_node = arguments.as_node.as_deref().map(|name| (name, visibility));
    let question = Question::parse(&arguments.from, as_node, &arguments.to);
    let question = match question {
        Ok(question) => question,
        Err(fault) => {
            complain(&format!("epmd-guard: {fault}"));
            return ExitCode::FAILURE;
        }
    };
    let overrides = Overrides { allow: arguments.allow.clone() };
    let (loaded, label) =
        match (Source { path: arguments.guard.config.clone(), overrides }).load_with(Files::Leave) {
            Ok(loaded) => loaded,
            Err(error) => {
                complain(&error.render(color()));
                return ExitCode::from(EXIT_CONFIG);
            }
        };
    let config = loaded.config;
    let answers = resolve(&config.cluster.network);
    let policy = Policy::new(config.rules()).with_answers(answers);
    let own: Vec<IpAddr> = host::addresses().unwrap_or_default();
    let facts = Facts { config: &config, label: &label, policy: &policy, own: &own, running: None };
    tell(&answer(&question, facts), arguments)
}

/// What the host names of the rules mean, asked once and waited for.
pub(super) fn resolve(rules: &NetworkRules) -> HostAnswers {
    let mut answers = HostAnswers::default();
    for (rule, list, name) in rules.host_names() {
        match host::resolve(name.as_str()) {
            Ok(ips) => ips.into_iter().for_each(|ip| answers.insert(list, rule, ip)),
            Err(error) => complain(&format!("epmd-guard: {name} is not resolved: {error}")),
        }
    }
    answers
}

fn tell(explanation: &Explanation, arguments: &ExplainArguments) -> ExitCode {
    if arguments.json {
        let text = serde_json::to_string_pretty(explanation).unwrap_or_default();
        say(&shown_json(&text));
    } else {
        say(&render(explanation));
    }
    if explanation.verdict == Verdict::No { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn render(explanation: &Explanation) -> String {
    let mut lines: Vec<String> = explanation.stages.iter().map(stage).collect();
    let end = match explanation.verdict {
        Verdict::Yes => "is let through to",
        Verdict::No => "is refused on its way to",
        Verdict::Unknown => "may be let through to",
        Verdict::Unguarded => "reaches, around the guard,",
    };
    lines.push(format!("{} {end} {}", shown(&explanation.from), shown(&explanation.to)));
    lines.join("\n")
}

fn stage(stage: &Stage) -> String {
    let verdict = match stage.verdict {
        Verdict::Yes => "yes",
        Verdict::No => "no",
        Verdict::Unknown => "?",
        Verdict::Unguarded => "!",
    };
    let mut line = format!("{:<10} {verdict:<3}  {}", stage.stage, shown(&stage.why));
    if let Some(rule) = &stage.rule {
        line.push_str(&format!("\n{:<10}      by {}", "", shown(rule)));
        if let Some(place) = &stage.place {
            line.push_str(&format!(", {}", shown(place)));
        }
    }
    line
}
