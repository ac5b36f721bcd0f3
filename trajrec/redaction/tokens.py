"""Secrets whose first characters give them away, by provider.

A line that begins with https:// is the public documentation of the rules below it. A rule is the
kind of the secret, the texts that such secrets begin with, and a regular expression for the rest.
"""

from __future__ import annotations

from trajrec.redaction.rules import Rule

_TABLE = r"""
https://platform.openai.com/docs/api-reference/authentication
api key | sk- | (?!ecdsa|ssh)(?=[a-z_-]{0,60}[A-Z0-9])[\w-]{16,}
https://docs.github.com/en/authentication/keeping-your-account-and-data-secure
github token | ghp_ gho_ ghu_ ghs_ ghr_ | [A-Za-z0-9_]{20,}(?:\.[\w-]+)*
github token | github_pat_ | \w{20,}
https://docs.gitlab.com/security/tokens/
gitlab token | glpat- gldt- glrt- glcbt- glptt- glft- glimt- | [\w.-]{16,}
gitlab token | glagent- gloas- glsoat- glffct- | [\w.-]{16,}
gitlab token | GR1348941 | [\w-]{16,}
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
aws key | AKIA ASIA ABIA ACCA | [A-Z0-9]{16}(?![A-Za-z0-9])
aws session token | FwoGZXIvYXdz FQoGZXIvYXdz IQoJb3JpZ2lu | [A-Za-z0-9+/%]{60,}=*
aws key | ABSK | [A-Za-z0-9+/]{60,}=*
aws key | bedrock-api-key- | [A-Za-z0-9+/=]{20,}
aws key | amzn.mws. amzn1.oa2-cs.v1. | [0-9a-f-]{32,}
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
signature | X-Amz-Signature= X-Goog-Signature= Signature= | (?P<secret>[0-9a-fA-F]{64,})
https://learn.microsoft.com/en-us/rest/api/storageservices/create-service-sas
signature | sig= | (?P<secret>[A-Za-z0-9%+/]{30,}={0,2})
https://docs.cloud.google.com/docs/authentication/api-keys
google key | AIza | [\w-]{30,}
google key | AQ. | (?=[\w-]{0,40}[0-9])[\w-]{40,}
google token | ya29. | [\w.-]{20,}
google token | 1//0 1%2F%2F0 | [\w-]{30,}
google client secret | GOCSPX- | [\w-]{20,}
https://docs.slack.dev/authentication/tokens
slack token | xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs- xoxc- xoxd- | [A-Za-z0-9%/+=-]{10,}
slack token | xoxe.xoxb- xoxe.xoxp- xapp- xwfp- | [A-Za-z0-9-]{20,}
slack webhook | hooks.slack.com/ | (?:services|workflows|triggers)/(?P<secret>[A-Za-z0-9/_-]{20,})
https://huggingface.co/docs/hub/security-tokens
hugging face token | hf_ api_org_ | [A-Za-z0-9]{20,}
https://www.rfc-editor.org/rfc/rfc7519
jwt | eyJ | [\w-]{8,}\.[\w-]{8,}\.[\w-]*(?:\.[\w-]+){0,2}
https://www.rfc-editor.org/rfc/rfc8959
secret-token uri | secret-token: | [^\s"'<>\\]{8,}
https://docs.stripe.com/keys
stripe key | sk_live_ sk_test_ rk_live_ rk_test_ sk_prod_ rk_prod_ | [A-Za-z0-9]{10,}
stripe webhook secret | whsec_ | [A-Za-z0-9+/=]{24,}
https://docs.npmjs.com/about-access-tokens
npm token | npm_ | [A-Za-z0-9]{30,}
https://pypi.org/help/#apitoken
pypi token | pypi- | [\w-]{40,}
https://docs.sendgrid.com/ui/account-and-settings/api-keys
sendgrid key | SG. | [\w-]{16,}\.[\w-]{16,}
https://www.twilio.com/docs/iam/api-keys
twilio key | SK AC | [0-9a-f]{32}(?![A-Za-z0-9])
https://documentation.mailgun.com/docs/mailgun/api-reference/authentication
mailgun key | key- pubkey- | [0-9a-f]{32}(?![A-Za-z0-9])
https://discord.com/developers/docs/reference
discord token | MD MT Mj Mz ND NT Nj Nz OD OT | [\w-]{18,30}\.[\w-]{6}\.[\w-]{27,}
discord webhook | discord.com/api/webhooks/ | [0-9]{15,}/(?P<secret>[\w-]{40,})
discord webhook | discordapp.com/api/webhooks/ | [0-9]{15,}/(?P<secret>[\w-]{40,})
https://docs.databricks.com/aws/en/dev-tools/auth/pat
databricks token | dapi dkea dose dsapi | [0-9a-f]{32}(?:-[0-9]+)?(?![A-Za-z0-9])
https://docs.digitalocean.com/reference/api/create-personal-access-token/
digitalocean token | dop_v1_ doo_v1_ dor_v1_ | [0-9a-f]{40,}
https://devcenter.heroku.com/articles/authentication
heroku key | HRKU- | [\w-]{30,}
https://shopify.dev/docs/apps/build/authentication-authorization
shopify token | shpat_ shpca_ shppa_ shpss_ shptka_ shpua_ | [A-Za-z0-9]{24,}
https://developer.squareup.com/docs/build-basics/access-tokens
square token | sq0atp- sq0csp- | [\w-]{20,}
square token | EAAA | [\w-]{60}(?![\w-])
https://developers.facebook.com/docs/facebook-login/guides/access-tokens
facebook token | EAA | [A-Za-z0-9]{80,}
instagram token | IGQ | [\w-]{100,}
https://docs.newrelic.com/docs/apis/intro-apis/new-relic-api-keys/
new relic key | NRAK- NRII- NRJS- NRRA- NRIQ- | [\w-]{18,}
https://docs.sentry.io/account/auth-tokens/
sentry token | sntrys_ sntryu_ sntrya_ sntryi_ | [\w+/=-]{20,}
https://grafana.com/docs/grafana/latest/administration/service-accounts/
grafana token | glsa_ | [A-Za-z0-9]{20,}_[A-Fa-f0-9]{8}
grafana token | glc_ | [A-Za-z0-9+/]{32,}=*
grafana token | eyJrIjoi | [A-Za-z0-9+/]{40,}=*
https://learning.postman.com/docs/developer/postman-api/authentication/
postman key | PMAK- PMAT- | [A-Za-z0-9-]{24,}
https://linear.app/developers/graphql
linear key | lin_api_ lin_oauth_ | [A-Za-z0-9]{32,}
https://developers.notion.com/reference/authentication
notion token | ntn_ | [A-Za-z0-9]{40,}
notion token | secret_ | (?=[A-Za-z]{0,40}[0-9])[A-Za-z0-9]{43}(?!\w)
https://developers.figma.com/docs/rest-api/authentication/
figma token | figd_ figo_ figoh_ figor_ figorh_ | [\w-]{30,}
https://airtable.com/developers/web/api/authentication
airtable token | pat | [A-Za-z0-9]{14}\.[0-9a-f]{64}
https://developers.cloudflare.com/fundamentals/api/get-started/token-formats
cloudflare token | cfk_ cfut_ cfat_ | [A-Za-z0-9_-]{40,}
cloudflare origin key | v1.0- | [0-9a-f]{24}-[0-9a-f]{100,}
https://developer.hashicorp.com/vault/docs/concepts/tokens
vault token | hvs. hvb. hvr. | [\w-]{24,}
vault token | s. b. r. | (?=(?:\w{0,22}?[0-9]){2})(?=\w{0,22}[A-Z])[A-Za-z0-9]{24}(?![\w.(])
https://docs.docker.com/security/access-tokens/
docker token | dckr_pat_ dckr_oat_ | [\w-]{20,}
https://jfrog.com/help/r/jfrog-platform-administration-documentation/access-tokens
jfrog key | AKCp | [A-Za-z0-9]{60,}
jfrog token | cmVmd | [A-Za-z0-9]{59,}
https://docs.confluent.io/cloud/current/security/authenticate/
confluent secret | cflt | [A-Za-z0-9+/]{60}(?![A-Za-z0-9])
https://supabase.com/docs/guides/api/api-keys
supabase key | sbp_ sb_secret_ sbp_v0_ | [\w-]{20,}
https://planetscale.com/docs/concepts/service-tokens
planetscale token | pscale_tkn_ pscale_pw_ pscale_oauth_ | [\w.=-]{20,}
https://docs.doppler.com/docs/service-tokens
doppler token | dp.pt. dp.st. dp.ct. dp.sa. dp.scim. dp.audit. | [\w.-]{30,}
https://docs.dynatrace.com/docs/dynatrace-api/basics/dynatrace-api-authentication
dynatrace token | dt0c01. dt0s01. dt0s02. dt0s08. dt0s16. | [A-Za-z0-9]{8,24}\.[A-Za-z0-9]{64}
https://www.pulumi.com/docs/pulumi-cloud/access-management/access-tokens/
pulumi token | pul- | [0-9a-f]{40}
https://fly.io/docs/security/tokens/
fly token | fo1_ fm1r_ fm1a_ fm2_ | [\w+/=-]{40,}
https://docs.netlify.com/api/get-started/
netlify token | nfp_ nfc_ nfo_ nfu_ | [A-Za-z0-9]{30,}
https://vercel.com/docs/rest-api
vercel token | vcp_ vci_ vca_ vcr_ vck_ | [A-Za-z0-9]{24,}
https://render.com/docs/api
render key | rnd_ | [A-Za-z0-9]{20,}
https://neon.com/docs/manage/api-keys
neon key | napi_ | [a-z0-9]{40,}
https://tailscale.com/kb/1085/auth-keys
tailscale key | tskey- | [a-z]+-[A-Za-z0-9]+-[A-Za-z0-9]{16,}
https://developer.1password.com/docs/service-accounts/
1password token | ops_eyJ | [\w+/=-]{100,}
1password secret key | A3- | [A-Z0-9]{6}-(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5})(?:-[A-Z0-9]{5}){3}
https://age-encryption.org/v1
age key | AGE-SECRET-KEY-1 | [A-Z0-9]{40,}
https://docs.redhat.com/en/documentation/openshift_container_platform
openshift token | sha256~ | [\w-]{40,}
https://ranchermanager.docs.rancher.com/reference-guides/user-settings/api-keys
rancher token | token- | [a-z0-9]{5}:[a-z0-9]{40,}
https://replicate.com/docs/topics/security/api-tokens
replicate token | r8_ | [A-Za-z0-9]{30,}
https://console.groq.com/docs/quickstart
groq key | gsk_ | [A-Za-z0-9]{40,}
https://docs.x.ai/docs/tutorial
xai key | xai- | [A-Za-z0-9_-]{60,}
https://docs.perplexity.ai/guides/getting-started
perplexity key | pplx- | [A-Za-z0-9]{40,}
https://docs.api.nvidia.com/
nvidia key | nvapi- | [\w-]{50,}
https://docs.pinecone.io/guides/projects/manage-api-keys
pinecone key | pcsk_ | \w{40,}
https://docs.tavily.com/documentation/quickstart
tavily key | tvly- | [\w-]{20,}
https://docs.firecrawl.dev/introduction
firecrawl key | fc- | [0-9a-f]{32}(?![A-Za-z0-9])
https://e2b.dev/docs/api-key
e2b key | e2b_ | [0-9a-f]{32,}
https://docs.langchain.com/langsmith/create-account-api-key
langsmith key | lsv2_pt_ lsv2_sk_ ls__ | [0-9a-f]{32}\w*
https://docs.wandb.ai/
wandb key | wandb_v1_ | [\w-]{40,}
https://elevenlabs.io/docs/api-reference/authentication
elevenlabs key | sk_ | [0-9a-f]{40,}
https://docs.together.ai/docs/quickstart
together key | tgp_v1_ | [\w-]{30,}
https://docs.fireworks.ai/getting-started/quickstart
fireworks key | fw_ | (?=[A-Za-z]{0,30}[0-9])[A-Za-z0-9]{22,}
https://inference-docs.cerebras.ai/quickstart
cerebras key | csk- | [a-z0-9]{40,}
https://docs.voyageai.com/docs/api-key-and-installation
voyage key | pa- | (?=[\w-]{0,40}[0-9])(?=[\w-]{0,40}[A-Z])[\w-]{40,}
https://jina.ai/reader
jina key | jina_ | [\w-]{50,}
https://docs.runpod.io/get-started/api-keys
runpod key | rpa_ | [A-Z0-9]{40,}\w*
https://docs.apify.com/platform/integrations/api
apify token | apify_api_ | [A-Za-z0-9]{30,}
https://resend.com/docs/api-reference/introduction
resend key | re_ | (?=\w{0,30}[A-Z0-9])[A-Za-z0-9]{6,}_[A-Za-z0-9]{20,}
https://developers.brevo.com/docs/getting-started
brevo key | xkeysib- xsmtpsib- | [0-9a-f]{64}-[A-Za-z0-9]{16}
https://plaid.com/docs/api/
plaid token | access-sandbox- access-development- access-production- | [0-9a-f-]{36}
https://razorpay.com/docs/api/authentication/
razorpay key | rzp_live_ rzp_test_ | [A-Za-z0-9]{14,}
https://developer.flutterwave.com/docs/authentication
flutterwave key | FLWSECK- FLWSECK_TEST- | [0-9a-zA-Z]{12,}(?:-X)?
https://docs.easypost.com/docs/authentication
easypost key | EZAK EZTK | [A-Za-z0-9]{54}
https://docs.goshippo.com/docs/guides_general/authentication/
shippo token | shippo_live_ shippo_test_ | [0-9a-f]{40}
https://duffel.com/docs/api/overview/authentication
duffel token | duffel_live_ duffel_test_ | [\w=-]{40,}
https://developers.telnyx.com/docs/development/api-fundamentals/authentication
telnyx key | KEY0 | [0-9A-F]{31}_[A-Za-z0-9]{20,}
https://support.atlassian.com/atlassian-account/docs/manage-api-tokens-for-your-atlassian-account/
atlassian token | ATATT3 ATCTT3 ATSTT3 | [\w=-]{20,}
atlassian token | ATBB | (?=[A-Za-z]{0,20}[0-9])[A-Za-z0-9]{28,}
atlassian token | ATTA | [0-9a-f]{60,}
https://developers.hubspot.com/docs/apps/legacy-apps/private-apps/overview
hubspot token | pat-na1- pat-na2- pat-eu1- pat-ap1- | [0-9a-f-]{36}
https://www.contentful.com/developers/docs/references/authentication/
contentful token | CFPAT- | [\w-]{40,}
https://www.typeform.com/developers/get-started/personal-access-token/
typeform token | tfp_ | [\w.=-]{40,}
https://developers.intercom.com/docs/build-an-integration/learn-more/authentication
intercom token | dG9rO | [A-Za-z0-9+/]{50,}=*
https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/
salesforce token | 00D | [A-Za-z0-9]{12,15}![\w.]{60,}
https://www.zoho.com/accounts/protocol/oauth.html
zoho token | 1000. | [0-9a-f]{32}\.[0-9a-f]{32}
https://developers.dropbox.com/oauth-guide
dropbox token | sl. sl.u. | [\w-]{100,}
https://developer.adobe.com/developer-console/docs/guides/authentication/
adobe secret | p8e- | [A-Za-z0-9_-]{28,}
https://yandex.cloud/en/docs/iam/concepts/authorization/
yandex token | y0_ t1. | [\w.=-]{50,}
yandex key | AQVN | [\w-]{35,38}(?![\w-])
https://www.alibabacloud.com/help/en/ram/user-guide/create-an-accesskey-pair
alibaba key | LTAI | [A-Za-z0-9]{16,24}(?![A-Za-z0-9])
https://www.tencentcloud.com/document/product/598
tencent key | AKID | [A-Za-z0-9]{32}(?![A-Za-z0-9])
https://www.scaleway.com/en/docs/iam/how-to/create-api-keys/
scaleway key | SCW | [A-Z0-9]{17}(?![A-Za-z0-9])
https://www.mongodb.com/docs/atlas/api/service-accounts-overview/
mongodb atlas secret | mdb_sa_sk_ | [\w-]{30,}
https://launchdarkly.com/docs/home/account/api
launchdarkly key | sdk- api- mob- | [0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![A-Za-z0-9])
https://modal.com/docs/guide/service-users
modal token secret | as- | (?=[A-Za-z]{0,21}[0-9])(?=[a-z0-9]{0,21}[A-Z])[A-Za-z0-9]{22}(?![A-Za-z0-9_-])
https://infisical.com/docs/documentation/platform/token
infisical token | st. | [0-9a-f]{24}\.[0-9a-f]{24}\.[0-9a-f]{32}(?![0-9a-f])
https://posthog.com/docs/api
posthog key | phx_ | [A-Za-z0-9]{30,}
https://docs.honeycomb.io/configure/environments/manage-api-keys/
honeycomb key | hcaik_ hcbik_ hccik_ hcamk_ hcxlk_ | [a-z0-9]{40,}
https://docs.sonarsource.com/sonarqube-server/user-guide/managing-tokens/
sonarqube token | squ_ sqp_ sqa_ | [0-9a-f]{40}
https://sourcegraph.com/docs/cli/how-tos/creating_an_access_token
sourcegraph token | sgp_ sgd_ sgph_ | (?:[0-9a-f]{16}_|local_)?[0-9a-f]{40,}
https://circleci.com/docs/managing-api-tokens/
circleci token | CCIPAT_ CCIPRJ_ | [A-Za-z0-9]+_[0-9a-f]{40}
https://buildkite.com/docs/apis/managing-api-tokens
buildkite token | bkua_ bkat_ bkct_ | [A-Za-z0-9_-]{30,}
https://docs.prefect.io/v3/manage/cloud/manage-users/api-keys
prefect key | pnu_ pnb_ | [A-Za-z0-9]{36}
https://developer.harness.io/docs/platform/automation/api/add-and-manage-api-keys/
harness key | pat. sat. | [\w-]{22}\.[0-9a-f]{24}\.[A-Za-z0-9]{20}
https://octopus.com/docs/octopus-rest-api/how-to-create-an-api-key
octopus key | API- | (?=[A-Z]{0,25}[0-9])[A-Z0-9]{25,}(?![A-Za-z0-9])
https://docs.rubygems.org/
rubygems key | rubygems_ | [0-9a-f]{48}
https://github.com/clojars/clojars-web/wiki/Deploy-Tokens
clojars token | CLOJARS_ | [0-9a-f]{60}
https://learn.microsoft.com/en-us/nuget/nuget-org/scoped-api-keys
nuget key | oy2 | [a-z0-9]{43}(?![A-Za-z0-9])
https://doc.rust-lang.org/cargo/reference/publishing.html
crates.io token | cio | (?=[A-Za-z]{0,30}[0-9])[A-Za-z0-9]{32}(?![A-Za-z0-9_])
https://docs.readme.com/main/reference/authentication
readme key | rdme_ | [a-z0-9]{60,}
https://www.infracost.io/docs/
infracost key | ico- | [A-Za-z0-9]{32}(?![A-Za-z0-9])
https://docs.mapbox.com/help/getting-started/access-tokens/
mapbox token | sk.eyJ tk.eyJ | [\w-]{40,}\.[\w-]{16,}
https://documentation.onesignal.com/docs/en/keys-and-ids
onesignal key | os_v2_app_ os_v2_org_ | [a-z0-9]{80,}
https://firebase.google.com/docs/cloud-messaging/auth-server
firebase server key | AAAA | [\w-]{7}:[\w-]{100,}
https://docs.x.com/resources/fundamentals/authentication/oauth-2-0/bearer-tokens
x bearer token | AAAAAAAAAAAAAAAAAAAA | (?=[A-Za-z0-9]{0,60}%)[A-Za-z0-9%]{50,}
https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/
teams webhook | webhook.office.com/ | webhookb2/[0-9a-f@-]{70,}/IncomingWebhook/[0-9a-f]{32}/[\w-]+
https://clickhouse.com/docs/cloud/manage/openapi
clickhouse key | 4b1d | [A-Za-z0-9]{38}(?![A-Za-z0-9])
https://developers.pinterest.com/docs/getting-started/authentication/
pinterest token | pina_ | [A-Za-z0-9]{40,}
https://expressjs.com/en/resources/middleware/session.html
session cookie | s%3A s: | (?P<secret>[\w-]{32}\.[A-Za-z0-9+/%]{43,})
https://docs.gitlab.com/security/tokens/
session cookie | _gitlab_session= | (?P<secret>[0-9a-z]{32})
https://docs.djangoproject.com/en/stable/ref/settings/#secret-key
django secret key | django-insecure- | (?P<secret>[^\s"'<>\\]{30,})
https://docs.metamask.io/services/get-started/endpoints/
rpc key | infura.io/v3/ infura.io/ws/v3/ | (?P<secret>[0-9a-f]{32})(?![0-9a-f])
https://www.alchemy.com/docs/create-an-api-key
rpc key | alchemy.com/v2/ alchemyapi.io/v2/ | (?P<secret>[\w-]{32})(?![\w-])
https://io.adafruit.com/api/docs/
adafruit key | aio_ | [A-Za-z0-9]{28}(?![A-Za-z0-9])
https://developer.adobe.com/frameio/guides/
frame.io token | fio-u- | [\w=-]{60,}
https://developers.scalingo.com/
scalingo token | tk-us- | [\w-]{48}
https://console.settlemint.com/documentation/
settlemint token | sm_aat_ sm_pat_ sm_sat_ | [A-Za-z0-9]{16}(?![A-Za-z0-9])
https://api.intra.42.fr/apidoc
42 client secret | s-s4t2ud- s-s4t2af- | [0-9a-f]{64}
https://www.ory.sh/docs/concepts/personal-access-token
ory token | ory_pat_ ory_at_ ory_st_ ory_rt_ ory_ac_ | [\w.-]{30,}
"""


def _parse(table: str) -> tuple[Rule, ...]:
    """Return the rules of a table."""
    rules = []
    source = ""
    for line in table.strip().splitlines():
        if line.startswith("https://"):
            source = line
        else:
            kind, starts, rest = line.split(" | ")
            rules.append(Rule(kind, tuple(starts.split()), rest, source))
    return tuple(rules)


TOKENS = _parse(_TABLE)
"""The rules for secrets that begin with certain characters."""
