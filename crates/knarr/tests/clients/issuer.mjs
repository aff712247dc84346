// Checks service account tokens as a relying party does that knows nothing of Kubernetes, with the library `jose`:
// node issuer.mjs MODULE ISSUER TOKEN...; the issuer's keys are read with the first token as bearer.

import assert from 'node:assert/strict';

const [module, issuer, ...tokens] = process.argv.slice(2);
const jose = await import(module);

const headers = { authorization: `Bearer ${tokens[0]}` };
const answer = await fetch(`${issuer}/.well-known/openid-configuration`, { headers });
assert.equal(answer.status, 200);
const discovered = await answer.json();
assert.equal(discovered.issuer, issuer);
const keys = jose.createRemoteJWKSet(new URL(discovered.jwks_uri), { headers });
for (const token of tokens) {
  const { alg, kid } = jose.decodeProtectedHeader(token);
  assert.ok(discovered.id_token_signing_alg_values_supported.includes(alg));
  const { payload } = await jose.jwtVerify(token, keys, { issuer, audience: 'vault' });
  console.log(`${payload.sub} ${kid}`);
  await assert.rejects(jose.jwtVerify(token, keys, { issuer, audience: 'other' }), { code: 'ERR_JWT_CLAIM_VALIDATION_FAILED' });
  const turned = token.slice(0, -43) + [...token.slice(-43)].reverse().join('');
  await assert.rejects(jose.jwtVerify(turned, keys, { issuer }), { code: 'ERR_JWS_SIGNATURE_VERIFICATION_FAILED' });
}
console.log(`${keys.jwks().keys.length} keys`);
