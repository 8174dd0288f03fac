// An OpenID provider for the tests: node provider.mjs FOLDER_OF_PACKAGES PORT AUDIENCE
// A line on standard input that says "rotate" gives it other keys; the end of the input ends it.

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [packages, port, audience] = process.argv.slice(2);
const found = createRequire(`${packages}/`).resolve('oidc-provider');
const { Provider } = await import(pathToFileURL(found));

const issuer = `http://127.0.0.1:${port}`;

function keys() {
  const made = [
    generateKeyPairSync('rsa', { modulusLength: 2048 }),
    generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  ];
  return made.map(({ privateKey }) => (
    { ...privateKey.export({ format: 'jwk' }), use: 'sig', kid: randomUUID() }
  ));
}

// What a client's tokens are signed with.
const algorithms = { machine: 'ES256', app: 'RS256' };

const resource = (client) => ({
  audience,
  scope: 'read admin',
  accessTokenFormat: 'jwt',
  accessTokenTTL: 600,
  jwt: { sign: { alg: algorithms[client.clientId] ?? 'RS256' } },
});

// What people log in with at our own service; native, so that it may be at any port.
const signIn = (client_id) => ({
  client_id,
  application_type: 'native',
  grant_types: ['authorization_code'],
  redirect_uris: ['http://127.0.0.1/'],
  ...(client_id === 'sign-in'
    ? { client_secret: 'a+secret: of the%20tests' }
    : { token_endpoint_auth_method: 'none' }),
});

// The page's own, public; the second one is given no refresh token.
const page = (client_id, ...more) => ({
  client_id,
  application_type: 'native',
  token_endpoint_auth_method: 'none',
  grant_types: ['authorization_code', ...more],
  redirect_uris: ['http://127.0.0.1/'],
  post_logout_redirect_uris: ['http://127.0.0.1/'],
});

// Who logs in by an address has it; it is verified, unless it says otherwise.
const claimsOf = (id) => ({
  sub: id,
  name: 'Ann',
  ...(id.includes('@') && { email: id, email_verified: !id.startsWith('unverified') }),
});

function configuration() {
  return {
    clients: [
      {
        client_id: 'machine',
        client_secret: 'a-secret-of-the-tests',
        grant_types: ['client_credentials'],
        response_types: [],
        redirect_uris: [],
      },
      {
        client_id: 'app',
        client_secret: 'a-secret-of-the-tests',
        grant_types: ['authorization_code'],
        redirect_uris: ['http://127.0.0.1/back'],
      },
      ...['sign-in', 'sign-in-public'].map(signIn),
      page('page', 'refresh_token'),
      page('page-once'),
    ],
    cookies: { keys: [randomUUID()] },
    jwks: { keys: keys() },
    pkce: { required: () => false },
    scopes: ['openid', 'email', 'profile', 'read', 'admin'],
    claims: { openid: ['sub', 'name'], email: ['email', 'email_verified'], profile: [] },
    conformIdTokenClaims: false,
    clientBasedCORS: (_, __, client) => client.clientId.startsWith('page'),
    issueRefreshToken: (_, client) => client.grantTypeAllowed('refresh_token'),
    ttl: { ClientCredentials: 600, AccessToken: 600, IdToken: 600, Interaction: 600, Grant: 600, Session: 600 },
    findAccount: (_, id) => ({ accountId: id, claims: () => claimsOf(id) }),
    extraTokenClaims: (_, token) => (
      token.accountId
        ? { name: 'Ann', realm: { roles: ['editor'] } }
        : { realm: { roles: ['robot'] } }
    ),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (_, __, client) => resource(client),
        useGrantedResource: () => true,
      },
    },
  };
}

let provider;
const renew = () => { provider = new Provider(issuer, configuration()).callback(); };
renew();

const server = createServer((request, response) => provider(request, response));
server.listen(Number(port), '127.0.0.1', () => process.stdout.write('ready\n'));

for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'rotate') renew();
  process.stdout.write('done\n');
}
process.exit(0);
