//! `nemo-burn env serve`: the simulated office over HTTP, for agents that speak to NeMo Gym's resource server.

use std::time::Duration;

use anyhow::Context;
use nemo_env::Offices;
use nemo_env_server::{Server, ServerConfig};

use super::offices::{described_tools, office_name, offices};
use crate::arguments::{OfficeArguments, ServeArguments};
use crate::{allocator, exit, interrupt, output};

pub fn run(arguments: ServeArguments) -> anyhow::Result<()> {
    let ServeArguments { host, port, office, records, limits } = arguments;
    let defaults = ServerConfig::default();
    let offices = offices(office.tables.as_deref())?;
    let default_office = default_office(&offices, &office)?;
    let config = ServerConfig {
        host: host.unwrap_or(defaults.host),
        port: port.unwrap_or(defaults.port),
        office: default_office,
        tools: described_tools(records.as_deref())?,
        cookie_name: limits.cookie_name.unwrap_or(defaults.cookie_name),
        max_sessions: limits.max_sessions.unwrap_or(defaults.max_sessions),
        idle_timeout: limits.idle_timeout.map_or(defaults.idle_timeout, Duration::from_secs),
        max_session_bytes: limits.max_session_mib.map_or(defaults.max_session_bytes, bytes_of_mib),
        max_total_bytes: limits.max_total_mib.map_or(defaults.max_total_bytes, bytes_of_mib),
        max_offices: limits.max_offices.unwrap_or(defaults.max_offices),
        max_body_bytes: limits.max_body_mib.map_or(defaults.max_body_bytes, bytes_of_mib),
        request_timeout: limits.request_timeout.map_or(defaults.request_timeout, Duration::from_secs),
        response_timeout: limits.response_timeout.map_or(defaults.response_timeout, Duration::from_secs),
        max_connections: limits.max_connections.unwrap_or(defaults.max_connections),
        num_threads: limits.threads.unwrap_or(defaults.num_threads),
        stops_on_sigterm: true,
        ..defaults
    };
    let is_public = !config.host.is_loopback();
    let server = Server::bind(offices, config)?.giving_back_with(allocator::give_back);
    let stop = server.stop_handle();
    interrupt::on_first("\nstopping: running requests are answered first (Ctrl-C again ends at once)", move || {
        stop.stop();
    })?;
    // A request that goes wrong ends alone; the others are still served.
    exit::only_report_panics();
    if is_public {
        output::note("warning: this address can be reached from other machines, and the server asks for no password");
    }
    output::line(&format!("listening on http://{}", server.address()))?;
    let ending = server.run()?;
    if ending.num_cut > 0 {
        output::note(&format!("{} connection(s) were cut: their requests took too long", ending.num_cut));
    }
    Ok(())
}

/// The office of records that name none. A tables folder of several offices and nothing else has none of its own, so the
/// first of them by name is taken, which is said.
fn default_office(offices: &Offices, arguments: &OfficeArguments) -> anyhow::Result<Option<String>> {
    let named = office_name(arguments);
    let Some(tables) = arguments.tables.as_ref().filter(|_| named.is_none() && offices.unnamed().is_none()) else {
        return Ok(named);
    };
    let place = || tables.join("offices").display().to_string();
    let first = offices.names().with_context(place)?.into_iter().next();
    let first = first.with_context(|| format!("{}: no office; expected folders such as office-0007", place()))?;
    output::note(&format!("sessions that name no office are in {first} of {} (--office chooses another)", place()));
    Ok(Some(first))
}

fn bytes_of_mib(mib: usize) -> usize {
    mib.saturating_mul(1 << 20)
}
