"""Where Cloud Run's front has verified who pushes: what is believed without a signature."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from shared.embedded.push_keys import make_push_key, read_public_key
from shared.errors import BadSettings, IlloError, StoreUnavailable, Unauthenticated, WrongIdentity
from shared.identity import LONGEST_TOKEN, PushIdentity, verify
from shared.requirements import require_api, require_worker
from shared.settings import Settings, Signatures
from shared.wiring import push_identity, sweep_identity
from tests.unit.test_identity import (
    AUDIENCE,
    EMAIL,
    HOUR,
    ISSUER,
    KEY_ID,
    UNAUTHENTICATED,
    WRONG_IDENTITY,
    deep,
    good,
    part,
    signed,
    without_signature,
)
from tests.unit.test_identity import claims as claims_of
from tests.unit.test_settings import OF_A_WORKER, OF_THE_API, ON_GOOGLE
from worker.app import Health, create_app

MARK = "SIGNATURE_REMOVED_BY_GOOGLE"
LEFT_TO_IAM = {"ILLO_PUSH_SIGNATURES": "iam"}
ON_CLOUD_RUN = {"K_SERVICE": "illo-worker"}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "push-key.pem"
    make_push_key(path)
    return path


@pytest.fixture(scope="module")
def trusting(key: Path) -> PushIdentity:
    """Whose pushes are accepted where the front is trusted to have verified them."""
    return PushIdentity(
        issuers=(ISSUER,),
        audience=AUDIENCE,
        email=EMAIL,
        keys=lambda: {KEY_ID: read_public_key(key)},
        signatures_removed=True,
    )


@pytest.fixture(scope="module")
def token(key: Path) -> str:
    return signed(key.read_bytes())


def removed(key: Path, **others: Any) -> str:
    return f"Bearer {without_signature(signed(key.read_bytes(), **others))}"


def answer_to(
    authorization: str | None, identity: PushIdentity, **how: Any
) -> type[Exception] | None:
    """Say what a header is answered: nothing if it is accepted."""
    try:
        verify(authorization, identity, **how)
    except IlloError as refusal:
        return type(refusal)
    return None


# --- with the setting -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_a_token_without_its_signature_is_accepted(
    scheme: str, key: Path, trusting: PushIdentity
) -> None:
    verify(removed(key).replace("Bearer", scheme), trusting)


def test_no_key_is_needed_where_there_is_no_signature(key: Path, trusting: PushIdentity) -> None:
    def away() -> Mapping[str, bytes]:
        raise StoreUnavailable("no keys")

    blind = replace(trusting, keys=away)
    verify(removed(key), blind)
    assert answer_to(good()(key), blind) is StoreUnavailable


def test_a_good_signature_is_accepted_as_before(key: Path, trusting: PushIdentity) -> None:
    verify(good()(key), trusting)


@pytest.mark.parametrize(
    "what", sorted(UNAUTHENTICATED.keys() - {"a signature that Cloud Run has removed"})
)
def test_what_has_a_signature_or_nothing_is_verified_as_before(
    what: str, key: Path, trusting: PushIdentity
) -> None:
    assert answer_to(UNAUTHENTICATED[what](key), trusting) is Unauthenticated


@pytest.mark.parametrize("what", WRONG_IDENTITY)
def test_somebody_elses_token_is_refused_with_and_without_its_signature(
    what: str, key: Path, trusting: PushIdentity
) -> None:
    whole = WRONG_IDENTITY[what](key)
    assert whole is not None
    assert answer_to(whole, trusting) is WrongIdentity
    assert answer_to(without_signature(whole), trusting) is WrongIdentity


NEAR = {
    "empty": "",
    "more before": f"A{MARK}",
    "more after": f"{MARK}A",
    "a full stop after": f"{MARK}.",
    "a part after": f"{MARK}.{MARK}",
    "padding": f"{MARK}=",
    "another case": MARK.lower(),
    "spaces": MARK.replace("_", " "),
    "hyphens": MARK.replace("_", "-"),
    "percent-encoded": MARK.replace("_", "%5F"),
    "percent-encoded throughout": "".join(f"%{ord(letter):02X}" for letter in MARK),
    "in base64": part({"removed": MARK}),
    "a letter that looks alike": MARK.replace("O", "\u041e"),
    "a nothing in between": MARK.replace("_", "_\u200b"),
    "a zero after": f"{MARK}\0",
    "a line after": f"{MARK}\n.",
    "the first half": MARK[:13],
    "what another front writes": "SIGNATURE_REMOVED",
}


@pytest.mark.parametrize("what", NEAR)
def test_what_is_only_near_the_mark_is_a_wrong_signature(
    what: str, key: Path, trusting: PushIdentity
) -> None:
    token = without_signature(signed(key.read_bytes()), NEAR[what])
    assert answer_to(f"Bearer {token}", trusting) is Unauthenticated


@settings(max_examples=100, deadline=None)
@given(st.text() | st.text(alphabet=MARK) | st.from_regex(r"[\w-]*", fullmatch=True))
def test_nothing_else_stands_for_a_signature(
    token: str, trusting: PushIdentity, instead: str
) -> None:
    if instead.strip() != MARK:
        written = without_signature(token, instead)
        assert answer_to(f"Bearer {written}", trusting) is Unauthenticated


def bare(header: object, claims: object = None) -> str:
    """Write a token whose mark is right and whose rest is given; text stands as it is."""
    given = (header, claims_of() if claims is None else claims)
    parts = [one if isinstance(one, str) else part(one) for one in given]  # type: ignore[arg-type]
    return f"Bearer {'.'.join(parts)}.{MARK}"


RIGHT = {"alg": "RS256", "kid": KEY_ID}
FORGED: dict[str, str] = {
    "alg none": bare({"alg": "none", "kid": KEY_ID}),
    "alg None": bare({"alg": "None", "kid": KEY_ID}),
    "HS256": bare({"alg": "HS256", "kid": KEY_ID}),
    "ES384": bare({"alg": "ES384", "kid": KEY_ID}),
    "algorithms": bare({"alg": ["RS256"], "kid": KEY_ID}),
    "no algorithm": bare({"kid": KEY_ID}),
    "no key id": bare({"alg": "RS256"}),
    "a key id that is no text": bare({"alg": "RS256", "kid": {}}),
    "a header that is no object": bare([]),
    "claims that are no object": bare(RIGHT, []),
    "claims that are no JSON": bare(RIGHT, "YWJj"),
    "claims that are nested without end": bare(RIGHT, deep()),
    "claims with padding": bare(RIGHT, f"{part(claims_of())}="),
    "no claims": bare(RIGHT, ""),
    "no header": bare(""),
    "the mark alone": f"Bearer {MARK}",
    "the mark and nothing before": f"Bearer ..{MARK}",
    "four parts": bare(RIGHT, f"{part(claims_of())}.AAAA"),
    "two headers that became one": f"{bare(RIGHT)}, {bare(RIGHT)}",
    "half a header before": f"Bearer e30, {bare(RIGHT)}",
    "another scheme": bare(RIGHT).replace("Bearer", "Basic"),
    "too long": bare(RIGHT, claims_of(padding="x" * LONGEST_TOKEN)),
}


@pytest.mark.parametrize("what", FORGED)
def test_the_mark_saves_nothing_that_is_wrong_otherwise(what: str, trusting: PushIdentity) -> None:
    assert answer_to(bare(RIGHT), trusting) is None
    assert answer_to(FORGED[what], trusting) is Unauthenticated


NOW = int(time.time())
DATES: dict[str, Mapping[str, Any]] = {
    "in date": {},
    "expired": {"iat": NOW - 2 * HOUR, "exp": NOW - HOUR},
    "not yet issued": {"iat": NOW + HOUR, "exp": NOW + 2 * HOUR},
    "expired before it was issued": {"exp": NOW - HOUR},
    "no expiry": {"exp": None},
    "no time of issue": {"iat": None},
    "an expiry in words": {"exp": "tomorrow"},
    "a time of issue in words": {"iat": "today"},
    "times as lists": {"iat": [NOW], "exp": [NOW + HOUR]},
    "times with fractions": {"iat": NOW - 0.5, "exp": NOW + HOUR + 0.5},
    "for ever": {"exp": float("inf")},
    "since ever": {"iat": float("-inf")},
    "not before later": {"nbf": NOW + HOUR},
}


@pytest.mark.parametrize("what", DATES)
def test_a_date_is_judged_as_it_is_with_a_signature(
    what: str, key: Path, trusting: PushIdentity
) -> None:
    with_signature = answer_to(good(**DATES[what])(key), trusting)
    assert answer_to(removed(key, **DATES[what]), trusting) is with_signature


@pytest.mark.parametrize("what", ["expired", "not yet issued", "no expiry", "no time of issue"])
def test_a_token_without_signature_and_out_of_date_is_refused(
    what: str, key: Path, trusting: PushIdentity
) -> None:
    assert answer_to(removed(key, **DATES[what]), trusting) is Unauthenticated


@pytest.mark.parametrize("serverless", ["", "Bearer x", f"Bearer a.b.{MARK}"])
def test_beside_another_token_that_the_front_verified_none_is_believed(
    serverless: str, key: Path, trusting: PushIdentity
) -> None:
    assert answer_to(removed(key), trusting, serverless=serverless) is Unauthenticated
    assert answer_to(good()(key), trusting, serverless=serverless) is None


# --- the skin -------------------------------------------------------------------------------------


def pushed(identity: PushIdentity, **headers: str) -> tuple[int, list[bytes]]:
    """Push to a worker; return its answer and the bodies that it went on with."""
    bodies: list[bytes] = []

    def answer(body: bytes) -> int:
        bodies.append(body)
        return 204

    app = create_app(
        identity=identity,
        health=Health(ill=lambda: None, unready=lambda: None),
        answer=answer,
        registry=CollectorRegistry(),
    )
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.test_client().post("/push", data=b"x", headers=named).status_code, bodies


def test_a_worker_takes_a_push_without_signature_only_if_it_is_told_to(
    key: Path, trusting: PushIdentity
) -> None:
    doubting = replace(trusting, signatures_removed=False)
    assert pushed(trusting, Authorization=removed(key)) == (204, [b"x"])
    assert pushed(doubting, Authorization=removed(key)) == (401, [])


def test_a_worker_does_not_take_one_that_came_beside_another_token(
    key: Path, trusting: PushIdentity
) -> None:
    both = {"Authorization": removed(key), "X_Serverless_Authorization": f"Bearer a.b.{MARK}"}
    assert pushed(trusting, **both) == (401, [])


@pytest.mark.parametrize(("trusted", "told"), [(True, "iam"), (False, "worker")])
def test_a_worker_says_once_who_verifies_and_never_a_token(
    trusted: bool, told: str, key: Path, trusting: PushIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pushed(replace(trusting, signatures_removed=trusted), Authorization=removed(key))
    [event] = [each for each in caplog.records if each.message == "pushes are verified"]
    assert vars(event)["signatures"] == told
    assert MARK not in caplog.text


# --- the setting ----------------------------------------------------------------------------------


def test_signatures_are_verified_here_unless_somebody_says_otherwise() -> None:
    assert Settings.read({}).push_signatures is Signatures.WORKER
    for wrong in ("true", "IAM", "none", "off", ""):
        with pytest.raises(BadSettings, match=r"^ILLO_PUSH_SIGNATURES"):
            Settings.read({"ILLO_PUSH_SIGNATURES": wrong})


def test_a_worker_on_cloud_run_may_leave_them_to_iam() -> None:
    require_worker(Settings.read({**ON_GOOGLE, **OF_A_WORKER, **ON_CLOUD_RUN, **LEFT_TO_IAM}))


@pytest.mark.parametrize(
    ("given", "require"),
    [
        ({**ON_GOOGLE, **OF_A_WORKER}, require_worker),
        (ON_CLOUD_RUN, require_worker),
        ({}, require_worker),
        ({**ON_GOOGLE, **OF_THE_API, **ON_CLOUD_RUN}, require_api),
        ({}, require_api),
    ],
    ids=["elsewhere", "embedded", "embedded elsewhere", "the API", "an embedded API"],
)
def test_nobody_else_may(given: dict[str, str], require: Callable[[Settings], None]) -> None:
    require(Settings.read(given))
    with pytest.raises(
        BadSettings, match=r"^ILLO_PUSH_SIGNATURES: iam is for .*leave it out"
    ) as no:
        require(Settings.read({**given, **LEFT_TO_IAM}))
    assert len(str(no.value).splitlines()) == 1


def test_it_is_told_beside_what_is_missing() -> None:
    with pytest.raises(BadSettings) as refusal:
        require_worker(Settings.read({"ILLO_BACKEND": "gcp", **LEFT_TO_IAM}))
    named = {line.partition(":")[0] for line in str(refusal.value).splitlines()}
    assert named >= {"ILLO_PUSH_SIGNATURES", "ILLO_PUSH_AUDIENCE", "ILLO_BUCKET"}


@pytest.mark.parametrize(("given", "trusts"), [({}, False), (LEFT_TO_IAM, True)])
def test_the_setting_reaches_pushes_and_never_the_sweep(
    given: dict[str, str], trusts: bool
) -> None:
    settings = Settings.read({**ON_GOOGLE, **OF_A_WORKER, **OF_THE_API, **ON_CLOUD_RUN, **given})
    sweeper = sweep_identity(settings)
    assert sweeper is not None
    assert push_identity(settings).signatures_removed is trusts
    assert sweeper.signatures_removed is False


def test_on_one_machine_it_reaches_nothing() -> None:
    settings = Settings.read({**ON_CLOUD_RUN, **LEFT_TO_IAM})
    assert push_identity(settings).signatures_removed is False
    assert sweep_identity(settings) is None
