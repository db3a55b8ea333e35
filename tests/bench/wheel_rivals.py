"""Envoy, Caddy and Traefik, from their wheels (the `bench` extra), each held to one core's worth of threads (edge).

Each gets its manual's advice for the job, as the others: active checks, passive ejection where it has it, retries of
idempotent requests, the standbys only when the primary is gone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lattice.types import Endpoint
from router.site.config_reader import endpoint_text
from tests.bench.proxy_rivals import Fleet, Running, free_port, wait_listening


def program(name: str) -> str | None:
    """Where a program is: among the scripts of this environment, or on the path."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _start(
    name: str, home: Path, ports: Sequence[int], arguments: Sequence[str], environment: Mapping[str, str]
) -> Running:
    log = (home / "log").open("wb")
    path = program(name)
    assert path is not None, "asked for only when installed"
    process = subprocess.Popen([path, *arguments], stdout=log, stderr=log, cwd=home, env={**os.environ, **environment})
    endpoints: list[Endpoint] = [("127.0.0.1", port) for port in ports]
    for endpoint in endpoints:
        wait_listening(endpoint, name)
    return Running(name, endpoints[0], process, log, endpoints[1] if len(endpoints) > 1 else None)


def _ports(fleet: Fleet) -> list[int]:
    return [free_port(), free_port()] if fleet.certificate else [free_port()]


def start_envoy(directory: Path, fleet: Fleet) -> Running:
    """Priorities, outlier detection, retries on another priority; panic off, or it would send to the dead."""
    home, ports = directory / "envoy", _ports(fleet)
    home.mkdir()

    def locality(endpoints: Sequence[Endpoint], priority: int) -> dict[str, object]:
        addresses = [{"address": {"socket_address": {"address": h, "port_value": p}}} for h, p in endpoints]
        return {"priority": priority, "lb_endpoints": [{"endpoint": address} for address in addresses]}

    retry = {
        "retry_on": "connect-failure,refused-stream,reset,gateway-error",
        "num_retries": 3,
        "per_try_timeout": "0.25s",
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3"
                ".PreviousPrioritiesConfig",
                "update_frequency": 1,
            },
        },
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up", "retry_policy": retry}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }

    def listener(port: int, *, tls: bool) -> dict[str, object]:
        chain: dict[str, object] = {
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
        }
        if tls:
            pem = {"filename": str(fleet.certificate)}
            chain["transport_socket"] = {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "common_tls_context": {"tls_certificates": [{"certificate_chain": pem, "private_key": pem}]},
                },
            }
        address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        return {"name": f"in{port}", "address": address, "filter_chains": [chain]}

    endpoints = [locality(fleet.primary, 0), *([locality(fleet.standbys, 1)] if fleet.standbys else [])]
    cluster = {
        "name": "up",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "up", "endpoints": endpoints},
        "circuit_breakers": {"thresholds": [{"max_connections": 4096, "max_requests": 4096, "max_retries": 1000}]},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [
            {
                "timeout": "0.2s",
                "interval": "0.25s",
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/healthz"},
            }
        ],
        "outlier_detection": {
            "consecutive_5xx": 3,
            "consecutive_gateway_failure": 3,
            "enforcing_consecutive_gateway_failure": 100,
            "interval": "0.25s",
            "base_ejection_time": "1s",
            "max_ejection_percent": 100,
        },
    }
    listeners = [listener(port, tls=place == 1) for place, port in enumerate(ports)]
    config = {"static_resources": {"listeners": listeners, "clusters": [cluster]}}
    (home / "envoy.json").write_text(json.dumps(config))
    arguments = ["-c", str(home / "envoy.json"), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return _start("envoy", home, ports, arguments, {})


def start_caddy(directory: Path, fleet: Fleet) -> Running:
    home, ports = directory / "caddy", _ports(fleet)
    home.mkdir()
    upstreams = " ".join(map(endpoint_text, (*fleet.primary, *fleet.standbys)))
    handler = f"""
  reverse_proxy {upstreams} {{
    lb_policy first
    lb_retries 3
    lb_try_duration 2s
    lb_try_interval 0
    health_uri /healthz
    health_interval 250ms
    health_timeout 200ms
    fail_duration 1s
    max_fails 1
    unhealthy_status 5xx
    transport http {{
      dial_timeout 1s
      response_header_timeout 1s
      keepalive_idle_conns_per_host 64
    }}
  }}
"""
    sites = f"http://:{ports[0]} {{{handler}}}\n"
    if fleet.certificate:
        sites += f"https://:{ports[1]} {{\n  tls {fleet.certificate} {fleet.certificate}{handler}}}\n"
    (home / "Caddyfile").write_text("{\n  admin off\n  auto_https off\n  log {\n level ERROR\n }\n}\n" + sites)
    environment = {"GOMAXPROCS": "1", "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    return _start("caddy", home, ports, ["run", "--config", "Caddyfile", "--adapter", "caddyfile"], environment)


def start_traefik(directory: Path, fleet: Fleet) -> Running:
    home, ports = directory / "traefik", _ports(fleet)
    home.mkdir()

    def service(endpoints: Sequence[Endpoint]) -> dict[str, object]:
        check = {"path": "/healthz", "interval": "250ms", "timeout": "200ms"}
        servers = [{"url": f"http://{endpoint_text(endpoint)}"} for endpoint in endpoints]
        return {"loadBalancer": {"servers": servers, "healthCheck": check, "serversTransport": "up"}}

    services: dict[str, object] = {"main": service(fleet.primary)}
    if fleet.standbys:
        services["standby"] = service(fleet.standbys)
        services["both"] = {"failover": {"service": "main", "fallback": "standby", "healthCheck": {}}}
    router: dict[str, object] = {
        "rule": "PathPrefix(`/`)",
        "service": "both" if fleet.standbys else "main",
        "middlewares": ["again"],
    }
    routers = {"plain": {**router, "entryPoints": ["plain"]}}
    if fleet.certificate:
        routers["tls"] = {**router, "entryPoints": ["tls"], "tls": {}}
    dynamic: dict[str, object] = {
        "http": {
            "routers": routers,
            "middlewares": {"again": {"retry": {"attempts": 3}}},
            "services": services,
            "serversTransports": {
                "up": {
                    "maxIdleConnsPerHost": 64,
                    "forwardingTimeouts": {"dialTimeout": "1s", "responseHeaderTimeout": "1s"},
                }
            },
        }
    }
    if fleet.certificate:
        pem = str(fleet.certificate)
        dynamic["tls"] = {"stores": {"default": {"defaultCertificate": {"certFile": pem, "keyFile": pem}}}}
    (home / "dynamic.yml").write_text(json.dumps(dynamic))  # JSON is YAML
    points = {name: {"address": f"127.0.0.1:{port}"} for name, port in zip(("plain", "tls"), ports, strict=False)}
    static = {
        "entryPoints": points,
        "providers": {"file": {"filename": str(home / "dynamic.yml"), "watch": False}},
        "log": {"level": "ERROR"},
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
    }
    (home / "traefik.yml").write_text(json.dumps(static))
    return _start("traefik", home, ports, [f"--configFile={home}/traefik.yml"], {"GOMAXPROCS": "1"})
