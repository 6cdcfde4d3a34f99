"""Values that cannot work: refused, by both Helms, in words."""

from __future__ import annotations

import pytest
from charts import CHART, ID, SHORTEST, each_line, helm, of_kind, rendered

from exporter.cli import flags

pytestmark = pytest.mark.e2e


@each_line
@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ((), "environments: none. Set environments.NAME.apiKeySecret"),
        (("--set", "environments.production.rate_limit=5"), "environments.production.apiKeySecret: missing"),
        ((*SHORTEST, "--set", "splt=environment"), "splt"),
        ((*SHORTEST, "--set", "environments.production.ratelimit=5"), "ratelimit"),
        ((*SHORTEST, "--set", "config.retenton=5d"), "retenton"),
        ((*SHORTEST, "--set", "resources.limts.memory=1Gi"), "limts"),
        ((*SHORTEST, "--set", "tolerations[0].opertor=Exists"), "opertor"),
        ((*SHORTEST, "--set", "serviceMonitor.tlsConfig.insecureSkipVerfy=true"), "insecureSkipVerfy"),
        ((*SHORTEST, "--set", "environments.production.apiKeyRemoteRef.key=x"), "apiKeySecret and apiKeyRemoteRef"),
        (("--set", "environments.production.apiKeyRemoteRef.key=x"), "externalSecrets.secretStoreRef.name: missing"),
        ((*SHORTEST, "--set", "registration.tokens[0].secretKey=t"), "registration.tokens[0]: needs either secretName"),
        (
            (*SHORTEST, "--set", "registration.tokens[0].secretName=t,registration.tokens[0].environments={prod}"),
            "registration.tokens[0].environments: prod is none of environments (production)",
        ),
        ((*SHORTEST, "--set", "web.configSecret=a,web.configRemoteRef.key=b"), "web: configSecret and configRemoteRef"),
        ((*SHORTEST, "--set", "maintenance=true"), "maintenance without persistence"),
        ((*SHORTEST, "--set", "split=environment,ingress.enabled=true"), "web.externalUrl: missing"),
        ((*SHORTEST, "--set", "ingress.enabled=true,ingress.path=/knock"), "web.externalUrl: missing"),
        (
            (*SHORTEST, "--set", "web.externalUrl=https://k.example,ingress.enabled=true,ingress.path=/knock"),
            "ingress.path: /knock, but web.externalUrl has the path /.",
        ),
        (
            (*SHORTEST, "--set", "split=environment,web.externalUrl=https://k,environments.metrics.apiKeySecret=k"),
            "web.externalUrl: the pages would be at /metrics, which the exporter has for itself",
        ),
        ((*SHORTEST, "--set", "web.externalUrl=https://k/api/v1"), "web.externalUrl: the pages would be at /api/v1"),
        ((*SHORTEST, "--set", "web.externalUrl=https://k.example/?a=b"), "externalUrl"),
        (
            (*SHORTEST, "--set", "environments.production.proxy=http://user:hunter2@proxy:3128"),
            "environments.production.proxy: has a user and a password",
        ),
        ((*SHORTEST, "--set", "config.timeout="), "timeout"),
        ((*SHORTEST, "--set", "environments.production.ca_file=~/ca.pem"), "ca_file"),
        ((*SHORTEST, "--set", "environments.production.operations_files={~/ids.txt}"), "operations_files"),
        ((*SHORTEST, "--set-json", 'registration.tokens=[{"secretName":"t","environments":[]}]'), "environments"),
        (
            (*SHORTEST, "--set", "registration.tokens[0].secretName=t,registration.tokens[1].secretName=t"),
            "registration.tokens[1]: the same token as registration.tokens[0]",
        ),
        ((*SHORTEST, "--set", "persistence.existingClaim=c"), "persistence.existingClaim without persistence.enabled"),
        (
            (*SHORTEST, "--set", "split=environment,persistence.enabled=true,persistence.existingClaim=c"),
            "persistence.existingClaim with split: environment",
        ),
        (
            (
                *SHORTEST,
                "--set",
                "persistence.enabled=true,extraEnv[0].name=KNOCK_EXPORTER_STORAGE_PATH,extraEnv[0].value=/s",
            ),
            "extraEnv: KNOCK_EXPORTER_STORAGE_PATH is set by persistence.enabled",
        ),
        ((*SHORTEST, "--set", "podLabels.knock-exporter/workload=a"), "podLabels: knock-exporter/workload is set"),
        ((*SHORTEST, "--set", "podLabels.a=b c"), "podLabels"),
        ((*SHORTEST, "--set", "networkPolicy.enabled=true"), "networkPolicy.fromPrometheus: none"),
        ((*SHORTEST, "--set", "networkPolicy.privateRanges={nonsense}"), "privateRanges"),
        ((*SHORTEST, "--set", "networkPolicy.privateRanges={999.1.1.1/8}"), "privateRanges"),
        ((*SHORTEST, "--set-json", "networkPolicy.fromClients=[{}]"), "fromClients"),
        ((*SHORTEST, "--set-json", 'ciliumNetworkPolicy.dnsEndpoints=[{"matchLabel":{}}]'), "matchLabel"),
        ((*SHORTEST, "--set", "extraArgs={--web.telemetry-path=/m}"), "extraArgs: --web.telemetry-path"),
        (
            (*SHORTEST, "--set", "extraEnv[0].name=KNOCK_EXPORTER_WEB_TELEMETRY_PATH,extraEnv[0].value=/m"),
            "extraEnv: KNOCK_EXPORTER_WEB_TELEMETRY_PATH",
        ),
        (
            (*SHORTEST, "--set", "persistence.enabled=true,extraArgs={--storage.path=/x}"),
            "extraArgs: --storage.path is set by persistence.enabled",
        ),
        ((*SHORTEST, "--set", "terminationGracePeriodSeconds=null"), "terminationGracePeriodSeconds"),
        ((*SHORTEST, "--set", "web.port=null"), "port"),
        (
            (
                *SHORTEST,
                *("--set", "ciliumNetworkPolicy.enabled=true,networkPolicy.enabled=true"),
                *("--set-json", 'networkPolicy.fromPrometheus=[{"podSelector":{}}]'),
                *("--set-json", 'networkPolicy.extraEgress=[{"ports":[{"port":3128}]}]'),
            ),
            "networkPolicy.extraEgress with ciliumNetworkPolicy.enabled",
        ),
        (
            (*SHORTEST, "--set-json", 'registration.tokens=[{"secretName":"t","environments":["all","production"]}]'),
            "registration.tokens[0].environments: all stands for every environment",
        ),
        (
            (*SHORTEST, "--set", "registration.tokens[0].secretName=t,registration.tokens[0].environments={a,a}"),
            "environments",
        ),
        (
            (
                *SHORTEST,
                "--set-json",
                'registration.tokens=[{"secretName":"t"},{"secretName":"t","secretKey":"token"}]',
            ),
            "registration.tokens[1]: the same token as registration.tokens[0]",
        ),
        (
            (*SHORTEST, "--set", "split=environment,environments.a_b.apiKeySecret=x,environments.a-b.apiKeySecret=x"),
            "environments.a_b: cannot name a workload",
        ),
        ((*SHORTEST, "--set-json", "ciliumNetworkPolicy.fqdns=[]"), "fqdns"),
        ((*SHORTEST, "--set-json", "ciliumNetworkPolicy.dnsEndpoints=[]"), "dnsEndpoints"),
        ((*SHORTEST, "--set", "ingress.host=https://a b/c"), "host"),
        ((*SHORTEST, "--set", "httpRoute.enabled=true"), "httpRoute.parentRefs: none"),
        ((*SHORTEST, "--set", "serviceMonitor.enabled=true,podMonitor.enabled=true"), "scrape everything twice"),
        (
            (*SHORTEST, "--set", "split=environment,environments._.apiKeySecret=x"),
            "environments._: cannot name a workload",
        ),
        (
            (*SHORTEST, "--set", "environments.all.apiKeySecret=x"),
            "environments.all: is not a valid name",
        ),
        (
            (*SHORTEST, "--set", "environments.Eu.apiKeySecret=x"),
            "environments.Eu: is not a valid name",
        ),
        ((*SHORTEST, "--set", "serviceMonitor=null"), "serviceMonitor"),
        (
            (
                *SHORTEST,
                "--set",
                f"environments.production.operations[0].id={ID},environments.production.operations[0].labels.team=a",
            ),
            "environments.production.operations[0].labels.team: is not declared. Add it to config.labels.",
        ),
        (
            (
                *SHORTEST,
                "--set",
                "environments.production.proxy=http://proxy:3128,environments.production.proxy_from_environment=true",
            ),
            "environments.production: proxy and proxy_from_environment. Keep one.",
        ),
        (
            (*SHORTEST, "--set", "extraEnv[0].name=https_proxy,extraEnv[0].value=http://proxy:3128"),
            "extraEnv: https_proxy is read by no environment",
        ),
        (
            (
                *SHORTEST,
                "--set",
                (
                    "environments.production.proxy_from_environment=true,"
                    "extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=http://user:hunter2@proxy:3128"
                ),
            ),
            "extraEnv: HTTPS_PROXY has a user and a password",
        ),
        (
            (*SHORTEST, "--set", "ingress.enabled=true,networkPolicy.enabled=true,networkPolicy.fromPrometheus[0].x=y"),
            "fromPrometheus",
        ),
        (
            (
                *SHORTEST,
                "--set",
                (
                    "ingress.enabled=true,networkPolicy.enabled=true,"
                    "networkPolicy.fromPrometheus[0].podSelector.matchLabels.a=b"
                ),
            ),
            "networkPolicy.fromClients: none",
        ),
        (
            (*SHORTEST, "--set", "web.configSecret=w,podMonitor.enabled=true"),
            "podMonitor: has neither scheme: https nor basicAuth",
        ),
        ((*SHORTEST, "--set", "prometheusRule.thresholds.group_error_ratio=5"), "group_error_ratio"),
        (
            (*SHORTEST, "--set", "ingress.enabled=true,ingress.host=k.example,ingress.path=/knock"),
            "as in https://k.example/knock.",
        ),
        ((*SHORTEST, "--set", "web.healthPort=10187"), "web.healthPort: the same as web.port"),
        ((*SHORTEST, "--set", "registration.tokens[0].secretName=t"), "registration.tokens without persistence"),
        ((*SHORTEST, "--set", "prometheusRule.disabled={KnockTypo}"), "disabled"),
        ((*SHORTEST, "--set", "prometheusRule.thresholds.staled_seconds=5"), "staled_seconds"),
        ((*SHORTEST, "--set-string", "prometheusRule.thresholds.runbooks=https://a b"), "runbooks"),
        ((*SHORTEST, "--set-string", "prometheusRule.thresholds.remembered=0d"), "remembered"),
    ],
)
def test_wrong_values_are_refused_in_words(line: int, args: tuple[str, ...], complaint: str) -> None:
    done = helm(line, "template", "release", CHART, *args)
    assert done.returncode != 0
    assert complaint in done.stderr


@each_line
@pytest.mark.parametrize(
    "release", ["my.knock", "1knock", "0", "knock-exporter.2", "a.release-name-that-has-to-be-cut-off"]
)
def test_a_release_name_that_cannot_name_a_service_is_refused(line: int, release: str) -> None:
    done = helm(line, "template", release, CHART, *SHORTEST)
    assert done.returncode != 0
    assert f"release name: {release} would make a Service named" in done.stderr
    assert "set fullnameOverride" in done.stderr
    named = rendered(line, *SHORTEST, "--set", "fullnameOverride=knock", release=release)
    assert {each["metadata"]["name"] for each in of_kind(named, "Service")} == {"knock"}


@pytest.mark.parametrize(
    "args",
    [
        # Both lists of peers are one rule.
        (
            *("--set", "networkPolicy.enabled=true,ingress.enabled=true"),
            *("--set-json", 'networkPolicy.fromPrometheus=[{"podSelector":{}}]'),
        ),
        ("--set", "ingress.enabled=true,web.externalUrl=https://portal.example/knock"),
        ("--set", "networkPolicy.fromClients=null,prometheusRule.enabled=true,prometheusRule.thresholds=null"),
        ("--set", "serviceMonitor.enabled=true,serviceMonitor.interval=1m30s"),
        ("--set", "web.configSecret=w,podMonitor.enabled=true,podMonitor.scheme=https"),
    ],
)
def test_what_works_is_let_through(args: tuple[str, ...]) -> None:
    assert of_kind(rendered(4, *SHORTEST, *args), "Deployment")


def test_registrations_without_persistence_can_be_accepted() -> None:
    accepted = "registration.acceptLossWithoutPersistence=true"
    made = rendered(4, *SHORTEST, "--set", "registration.tokens[0].secretName=t", "--set", accepted)
    assert of_kind(made, "Deployment")


@pytest.mark.parametrize("taken", [*flags.TAKEN, "/metrics/"])
def test_an_external_url_that_the_exporter_refuses_is_refused_here(taken: str) -> None:
    done = helm(4, "template", "release", CHART, *SHORTEST, "--set", f"web.externalUrl=https://k.example{taken}")
    assert f"web.externalUrl: the pages would be at {taken.rstrip('/')}" in done.stderr
