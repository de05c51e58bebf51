"""What stores say when they refuse a link, and what it means: a table of codes, one of words.

Every code was seen in a store's answer or in its documentation; the words are of those that have
no code of their own for a thing. Most say AccessDenied for anything: that is in no table.
"""

from __future__ import annotations

import re

from segdl.core.diagnosis import (
    ACCOUNT,
    ALTERED,
    ARCHIVED,
    CLOCK,
    ENCRYPTED,
    ENDED,
    EXPIRED,
    LIMITED,
    LOGIN,
    MALFORMED,
    MISSING,
    POLICY,
    REVOKED,
    Diagnosis,
    Kind,
)

_CODES = {
    EXPIRED: "ExpiredRequest RequestExpired",
    CLOCK: "RequestTimeTooSkewed",
    ENDED: "ExpiredToken TokenExpired SecurityTokenExpired InvalidToken InvalidTokenId "
    "InvalidSecurityToken TokenRefreshRequired",
    ALTERED: "SignatureDoesNotMatch",
    REVOKED: "InvalidAccessKeyId InvalidAccessKey InvalidKey KeyBasedAuthenticationNotPermitted "
    "InvalidSecurity",
    ACCOUNT: "AllAccessDisabled AccountProblem AccountIsDisabled UserDisable NotSignedUp "
    "UserSuspended UserProjectAccountProblem BucketDisabled InArrearOrInsufficientBalance "
    "accountDisabled AccountNotActive TransactionCapExceeded download_cap_exceeded",
    MISSING: "NoSuchBucket NoSuchKey NoSuchVersion NoSuchObject BlobNotFound ContainerNotFound "
    "ResourceNotFound NotFound InvalidAccessPointAliasError",
    ARCHIVED: "InvalidObjectState BlobArchived BlobBeingRehydrated",
    ENCRYPTED: "BlobUsesCustomerSpecifiedEncryption KeyVaultEncryptionKeyNotFound "
    "KeyVaultAccessTokenCannotBeAcquired KeyVaultVaultNotFound",
    MALFORMED: "AuthorizationQueryParametersError AuthorizationHeaderMalformed MissingKey "
    "MalformedSecurityHeader MissingSecurityHeader MalformedPolicy UnsupportedAlgorithm "
    "UnsupportedSignature InvalidQueryParameterValue OutOfRangeQueryParameterValue "
    "SecurityTokenNotSupported VirtualHostDomainRequired IllegalLocationConstraintException",
    LIMITED: "SlowDown SlowDownRead TooManyRequests ErrTooManyRequest Throttling "
    "RequestLimitExceeded rateLimitExceeded userRateLimitExceeded quotaExceeded "
    "QpsLimitExceeded BandwidthLimitExceeded",
    POLICY: "AuthorizationPermissionMismatch AuthorizationFailure AuthorizationServiceMismatch "
    "AuthorizationSourceIPMismatch AuthorizationProtocolMismatch "
    "AuthorizationResourceTypeMismatch InsufficientAccountPermissions PublicEndpointForbidden "
    "UnauthorizedAccess",
    LOGIN: "AuthenticationRequired NoAuthenticationInformation PublicAccessNotPermitted",
}
BY_CODE = {code: diagnosis for diagnosis, codes in _CODES.items() for code in codes.split()}

BY_WORDS: tuple[tuple[re.Pattern[str], Diagnosis], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), diagnosis)
    for pattern, diagnosis in (
        (r"not authorized to perform: kms:", ENCRYPTED),
        (r"not authorized to perform", POLICY),  # the rest names what it is about
        (r"overdue payment|in arrears|\bcap exceeded", ACCOUNT),
        (r"rate.?limit|too many requests|slow down|quota exceeded|throttl", LIMITED),
        (r"token (included in the request )?(has expired|is expired|is invalid)", ENDED),
        (r"expired|too old|expiry time .* has to be after signed start time", EXPIRED),
        (r"difference between the request time|time too skewed", CLOCK),
        (
            r"signature (we calculated )?(does|did) not match|invalid signature|bad signature",
            ALTERED,
        ),
        (r"headers?\b.{1,100}\bnot signed", ALTERED),
        (
            r"access ?key.*(does not exist|is disabled|is inactive)|no such key: |unknown key",
            REVOKED,
        ),
        (r"service account .*(does not exist|disabled)", REVOKED),
        (r"require aws signature version 4", MALFORMED),
        (r"server side encryption|kms", ENCRYPTED),
        (r"less than a week|week \(in seconds\)|604800", MALFORMED),
        (r"region .* is wrong|authorization (header|mechanism)|malformed", MALFORMED),
        (r"is mandatory\. cannot be empty|not well formed|without signed identifier", MALFORMED),
        (r"signed (key )?expiry .*after", MALFORMED),
        (r"archive|glacier|storage class|restore", ARCHIVED),
        (r"bucket .* (does not exist|not found)", MISSING),
        (r"anonymous", LOGIN),
    )
)
BY_PAGES = {Kind.EXPIRED, Kind.RATE_LIMIT}  # all that the words of a page for people are taken for
NAME = re.compile(r"\S*/\S*")  # of a bucket, a key or a user, which may hold any word
EARLY = re.compile(r"not (yet valid|valid yet)|before the start", re.IGNORECASE)
FRAME = re.compile(  # Azure's
    r"not valid in the (?:specified )?(?:key )?time frame"
    r"(?:: Start \[([^]]{1,60})\] - Expiry \[([^]]{1,60})\] - Current \[([^]]{1,60})\])?",
    re.IGNORECASE,
)
GATEWAYS = re.compile(r"error code: 10\d\d|rbac: access denied", re.IGNORECASE)  # without a page
FILTERS = re.compile(
    r"squid|zscaler|forti(net|gate|guard)|blue ?coat|barracuda|sophos|websense|forcepoint|"
    r"palo alto|mcafee|netskope|checkpoint|your organi[sz]ation|"
    r"web (page|site)? ?(is )?(blocked|filter)",
    re.IGNORECASE,
)
